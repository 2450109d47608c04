//! Permissions of each role on the NATS servers, as their configuration says it. Gateways have an account's subjects to
//! themselves. An agent takes work from tenants' consumers, acknowledges it, asks gateways about what it was given, and
//! says that it is there: it publishes no work, answers no agent, and sees no stream, bucket or object.
//!
//! The servers can't distinguish a name from a pattern in what is published: a user who may ask for `$JS.API.DIRECT.GET.STREAM.NAME`
//! of any name may ask for `>` as well, and gets the last of all. So agents read nothing from streams themselves; a
//! gateway gives them what their work names.

use std::fmt::Write;

use crate::dispatch::jetstream::subjects::Names;

/// Subjects that an agent of that user may publish to.
fn publish(names: &Names, user: &str) -> Vec<String> {
    // At the domain's own servers its subjects are made into those without a domain before a server looks
    // whether they are allowed.
    let without_domain = names.domain.as_ref().map(|_| names.clone().in_domain(None));
    let jetstream = [Some(names), without_domain.as_ref()].into_iter().flatten().flat_map(|names| {
        let next = format!("{}.CONSUMER.MSG.NEXT.{}.*", names.api(), names.stream());
        [next, names.agent(user, "*")]
    });
    let others = [
        // Of all tenants: an agent may acknowledge work that another holds. That costs time and no credits,
        // because the gateway submits what is missing again.
        format!("$JS.ACK.{}.>", names.stream()),
        // The same with a domain and an account, as newer servers may write it.
        format!("$JS.ACK.*.*.{}.>", names.stream()),
        // All gateways: what an agent can ask about has names that it can't guess.
        names.gateway("*", "*"),
        names.join(),
        names.lines("*"),
    ];
    jetstream.chain(others).collect()
}

/// Subjects that it may subscribe to.
fn subscribe(names: &Names, user: &str) -> Vec<String> {
    vec![format!("_INBOX_{user}.>"), names.tenants(), names.revoked(), names.ended()]
}

fn quoted(subjects: &[String]) -> String {
    subjects.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
}

/// The part of a server's configuration that lets them in: a user `gateway` and a user for each of `agents`, whose
/// passwords stand in the servers' environment.
pub fn configuration(names: &Names, agents: &[String]) -> String {
    let mut text = String::from(
        "# Passwords (or bcrypt hashes of them) come from the server's environment, where each stands in double quotes\n\
         # unless it is letters and digits that begin with a letter. Give each user that runs agents a name of its own:\n\
         # it reads what is sent to it alone.\n\
         accounts {\n  FASTMAP {\n    jetstream: enabled\n    users: [\n",
    );
    text.push_str("      { user: gateway, password: $FASTMAP_NATS_GATEWAY }\n");
    for user in agents {
        let variable = user.to_ascii_uppercase().replace('-', "_");
        let (publish, subscribe) = (quoted(&publish(names, user)), quoted(&subscribe(names, user)));
        // Writing to a `String` can't fail.
        let _ = write!(
            text,
            "      {{ user: \"{user}\", password: $FASTMAP_NATS_{variable}, permissions: {{\n\
             \x20         publish: {{ allow: [{publish}] }}\n\
             \x20         subscribe: {{ allow: [{subscribe}] }}\n      }} }}\n"
        );
    }
    text.push_str("    ]\n  }\n}\n");
    text
}
