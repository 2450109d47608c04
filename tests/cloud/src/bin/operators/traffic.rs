//! What programs and browsers send: uploads, large items, requests that wait, a sign-in at the dashboard by its
//! requests alone (and by a browser), and events.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

use fastmap_test_programs::{LIMIT, Report, Running, until};

use crate::page::Page;
use crate::place::Place;
use crate::watched::Client;

/// The same with a browser, which signs in and watches the run that waits until it ends.
pub(crate) fn all_and_browser(place: &Place, client: &Client, milliseconds: u64) -> String {
    let page = Page::sign_in(place, client);
    let worked = send(place, client, milliseconds, || page.open("naps"));
    page.check_end();
    worked + ", Chromium"
}

/// Sends all of it, with an item that takes so long, and says in words what has worked.
pub(crate) fn all(place: &Place, client: &Client, milliseconds: u64) -> String {
    send(place, client, milliseconds, || ())
}

/// Sends all of it, and does something while the item that takes long is under way.
fn send(place: &Place, client: &Client, milliseconds: u64, meanwhile: impl FnOnce()) -> String {
    // The first map uploads the program.
    let mut waits = client.start(&["sleep", "1", &milliseconds.to_string()]);
    let large = client.start(&["large-items", "4", "5000000"]);
    let browser = Curl::sign_in(place, client);
    let mut run = None;
    until("a run on the dashboard", LIMIT, || {
        let runs = browser.get("runs?q=naps");
        run = runs
            .split("href=\"")
            .find(|rest| rest.starts_with("runs/"))
            .map(|rest| until_quote(rest).to_owned());
        run.is_some()
    });
    let mut events = browser.stream(&format!("{}/events", run.expect("it was waited for")));
    events.line("event: ");
    if let Err(panic) = catch_unwind(AssertUnwindSafe(meanwhile)) {
        // Why the map went wrong, if it did, would end with its process.
        eprintln!("the map meanwhile: {:#?}", waits.finish());
        resume_unwind(panic);
    }
    assert!(!waits.has_ended(), "events came with the run's end");
    drop(events);
    good(waits, 1);
    good(large, 4);
    "upload, items of 5 MB, long polls, sign-in, events".to_owned()
}

fn good(running: Running, items: usize) {
    let ended = running.finish();
    let report = Report::read(&ended.stdout);
    assert_eq!((report.good, report.errors.len()), (items, 0), "{ended:#?}");
}

/// curl, with the cookies of a session.
struct Curl {
    arguments: Vec<String>,
    /// The dashboard's root, with a slash behind it.
    root: String,
}

impl Curl {
    /// Signs in as a user does: by the link that `fastmap dashboard` prints, and the button of its page.
    fn sign_in(place: &Place, client: &Client) -> Curl {
        let cookies = place.path("cookies").display().to_string();
        let mut arguments: Vec<_> =
            ["-sS", "--max-time", "60", "-b", &cookies, "-c", &cookies].map(String::from).into();
        if let Some(certificate) = &client.certificate {
            arguments.extend(["--cacert".to_owned(), certificate.display().to_string()]);
        }
        let link = client.link(place);
        let (root, rest) = link.split_once("sign-in/").expect("a link");
        let browser = Curl { arguments, root: root.to_owned() };
        let page = browser.get(&format!("sign-in/{rest}"));
        let style = page.split("rel=\"stylesheet\" href=\"").nth(1).map(until_quote);
        assert!(browser.get(style.expect("a page has styles")).contains('{'), "{page}");
        let field = |name: &str| {
            let rest = page.split(&format!("name=\"{name}\" value=\"")).nth(1);
            format!("{name}={}", until_quote(rest.unwrap_or_else(|| panic!("{name}: {page}"))))
        };
        // What a browser says of the page that a form is on.
        let origin = root.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let answer = browser.curl(
            "sign-in",
            &["-H", &format!("Origin: {origin}"), "-d", &field("csrf"), "-d", &field("code"), "-L"],
        );
        assert!(answer.contains("Sign out"), "{answer}");
        browser
    }

    fn command(&self, path: &str, more: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(&self.arguments).args(more).arg([&self.root, path].concat());
        command
    }

    fn curl(&self, path: &str, more: &[&str]) -> String {
        let output = self.command(path, more).output().expect("curl is there (scripts/setup operators)");
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.curl(path, &["--fail-with-body"])
    }

    /// An answer that does not end.
    fn stream(&self, path: &str) -> Running {
        Running::start(&mut self.command(path, &["-N"]))
    }
}

fn until_quote(text: &str) -> &str {
    text.split('"').next().unwrap_or_default()
}
