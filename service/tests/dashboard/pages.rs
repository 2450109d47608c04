//! What people do on the dashboard, one story a test.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::client::Client;
use crate::scene::{Scene, Work, batch_from};
use crate::server::{LIMIT, until};

/// A label that would like to be a part of the page.
const HOSTILE: &str = "<script>document.title='taken'</script><b id=\"taken\">";

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_watched_from_the_list_to_its_page_and_cancelled() {
    let scene = Scene::start().await;
    let browser = &scene.browser;
    browser.until("#runs", |text| text.contains("No runs yet")).await;
    let run = scene.open(HOSTILE, 100_000);
    let work = Work::start(&scene.client, &run, 100, "s30");

    // The list: it shows the run without being loaded again, and goes on.
    let row = format!("#runs tr:has(#run-{run})");
    browser.until(&row, |text| text.contains("open")).await;
    let items = format!("{row} td[data-label=Items]");
    let before = browser.until(&items, |text| !text.starts_with("0 ")).await;
    browser.until(&items, |text| text != before).await;
    assert!(browser.text(&row).await.contains(HOSTILE), "the label is text");
    browser.check_access().await;

    // Its page.
    browser.click(&format!("#run-{run}")).await;
    browser.until("h1", |text| text == HOSTILE).await;
    let before = browser.text(".progress p").await;
    browser.until(".progress p", |text| text != before && text.contains("of 100,000 items")).await;
    browser.until(".workers tbody", |text| text.contains("worker-")).await;
    browser.until(".chart figcaption", |text| text.contains("items/s")).await;

    // A failure with its index, a death with its last words, a line of the log: none needs a reload.
    scene.client.patiently(&run, 1, &batch_from(4321, &["eone", "?", "p3"]));
    let failure = browser.until(".failures tbody", |text| text.contains("no such order")).await;
    assert!(failure.contains("4322"), "{failure}");
    browser.until(".log .lines", |text| text.contains("line 2")).await;
    scene.client.patiently(&run, 2, &batch_from(7000, &["a"]));
    let death = browser.until(".failures tbody", |text| text.contains("about to abort")).await;
    assert!(death.contains("7000") && death.contains("signal 6"), "{death}");
    browser.check_access().await;

    // Cancelled: the page says so, and the client is told.
    browser.click(".sure summary").await;
    browser.click(".sure button").await;
    browser.until(".badge", |text| text == "cancelled").await;
    work.end();
    scene.client.call("POST", &format!("/runs/{run}/heartbeat"), b"").json::<Value>(200);
    let reply = scene.client.call("PUT", &format!("/runs/{run}/batches/9"), &batch_from(0, &["e"]));
    reply.problem("run_ended");
    assert_eq!(
        browser.run("return document.title", vec![]).await,
        format!("{} · fastmap", &HOSTILE[..HOSTILE.len().min(60)]).as_str()
    );
    assert_eq!(browser.run("return document.getElementById('taken')", vec![]).await, Value::Null);
    browser.check_log(&[]).await;
    scene.browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_open_sees_how_its_run_ends_also_below_a_path_of_a_proxy() {
    let scene = Scene::start_below("/fast/map").await;
    let browser = &scene.browser;
    let run = scene.open("short", 2);
    browser.go("/dashboard/runs").await;
    browser.click(&format!("#run-{run}")).await;
    browser.until("h1", |text| text == "short").await;
    browser.until(".badge", |text| text == "open").await;
    scene.client.patiently(&run, 0, &batch_from(0, &["e", "e"]));
    browser.until(".progress p", |text| text.contains("2 of 2 items (100 %)")).await;
    scene.client.call("POST", &format!("/runs/{run}/done"), b"").json::<Value>(200);
    browser.until(".badge", |text| text == "done").await;
    assert_eq!(browser.text(".sure").await, "", "what is over can't be cancelled");
    browser.check_log(&[]).await;
    scene.browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_and_revoked_and_a_forged_form_does_nothing() {
    let scene = Scene::start().await;
    let browser = &scene.browser;
    browser.click("nav a[href='tokens']").await;
    browser.until("h1", |text| text == "Tokens").await;
    browser.check_access().await;
    browser.write("input[name=label]", "for <i>tests</i>").await;
    browser.click("form.new button").await;
    let secret = browser.until("#secret", |text| !text.is_empty()).await;
    browser.check_access().await;
    assert!(browser.text("table").await.contains("for <i>tests</i>"));
    let made = Client::new(&scene.server.url, secret.parse().expect("a secret"));
    made.call("POST", "/auth", b"").json::<Value>(200);
    browser.go("/dashboard/tokens").await;
    assert_eq!(browser.text("#secret").await, "", "it was shown once");

    // As a page of another origin would have it: a wrong token, or none.
    for change in [
        "document.querySelector('form.new [name=csrf]').value = '0'.repeat(64)",
        "document.querySelector('form.new [name=csrf]').remove()",
    ] {
        browser.go("/dashboard/tokens").await;
        browser.run(change, vec![]).await;
        browser.click("form.new button").await;
        browser.until("h1", |text| text == "Forbidden").await;
    }
    browser.go("/dashboard/tokens").await;
    let rows = browser.run("return document.querySelectorAll('tbody tr').length", vec![]).await;
    assert_eq!(rows, json!(2), "the account's token and the one that was made");

    browser.click("tbody tr:has(a, td) .sure summary").await;
    browser.click("tbody tr .sure[open] button").await;
    browser.until("tbody", |text| text.contains("revoked")).await;
    until("the revocation", || (made.call("POST", "/auth", b"").status == 401).then_some(()));

    // Its own token: the session ends with it.
    browser.click("tbody tr .sure summary").await;
    browser.click("tbody tr .sure[open] button").await;
    browser.until("h1", |text| text == "Signed out").await;
    browser.go("/dashboard/runs").await;
    browser.until("h1", |text| text == "Sign in").await;
    browser.check_access().await;
    browser.check_log(&["403 (Forbidden)", "401 (Unauthorized)"]).await;
    scene.browser.end().await;
}

/// Waits until the page that a click leads to has these words. What reads it needs scripts for a moment.
async fn shows_without_scripts(browser: &Browser, words: &[&str]) {
    let begun = Instant::now();
    loop {
        browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": false })).await;
        let source = browser.client.source().await.expect("a page");
        browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
        let missing = words.iter().find(|words| !source.contains(**words));
        let Some(missing) = missing else { return };
        assert!(begun.elapsed() < LIMIT, "{missing} is not in {source}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_can_be_read_without_scripts() {
    let scene = Scene::start().await;
    let browser = &scene.browser;
    let run = scene.open("quiet", 10);
    scene.client.patiently(&run, 0, &batch_from(5, &["e", "?"]));
    // What a browser without scripts gets is what the service has rendered.
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    browser.go("/dashboard/runs").await;
    browser.click(&format!("#run-{run}")).await;
    shows_without_scripts(browser, &["2</b>", " of 10 items", "no such order", "<b>6</b>", "<svg"]).await;
    browser.click(".sure summary").await;
    browser.click(".sure button").await;
    shows_without_scripts(browser, &["cancelled</span>"]).await;
    browser.check_log(&[]).await;
    scene.browser.end().await;
}
