//! The dashboard: pages for people, rendered here, alive by htmx and server-sent events, readable without either. It
//! shows what its account may see and changes three things: runs are cancelled, tokens made and revoked.
//!
//! `router` has the routes, `state` what handlers share. `sign_in` turns a one-time link into a session (`sign_in_page` are
//! its pages, `attempts` counts failures), `visitor` is the session of a request and checks that a form is ours, `cookies`
//! reads and makes what browsers keep; `runs`, `run` (alive by `live`), `tokens`, `credits` and `agents` are pages; `page`
//! is what surrounds them, `place` their address, `chart` and `show` draw and write. The store has sessions, so that any
//! gateway knows them.

mod agents;
mod assets;
mod attempts;
mod chart;
mod cookies;
mod credits;
mod live;
mod page;
mod place;
mod router;
mod run;
mod runs;
mod show;
mod sign_in;
mod sign_in_page;
mod state;
mod tokens;
mod visitor;

pub(crate) use router::router;
