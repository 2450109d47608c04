//! How pages look: nothing is wider than the window, in light and dark, narrow and wide. With `FASTMAP_PICTURES` set to a
//! folder, pictures for the documents are written there.

use std::path::PathBuf;

use serde_json::Value;

use crate::scene::{Scene, Work, batch_from};

#[tokio::test(flavor = "multi_thread")]
async fn pages_fit_narrow_and_wide_windows_in_light_and_dark() {
    let scene = Scene::start().await;
    let browser = &scene.browser;
    scene.server.json(&["account", "operator", "ada"]);
    for label in ["laptop", "nightly job", "render farm"] {
        scene.server.json(&["token", "create", "ada", "--label", label, "--days", "90"]);
    }
    scene.server.json(&["token", "revoke", "3"]);
    for (label, batches, end) in [
        ("nightly backtest", 8, "done"),
        (
            "render/shot-0042 with a label that goes on and on, longer than any column has room for",
            2,
            "cancel",
        ),
        ("thumbnails", 12, "done"),
        ("", 1, "done"),
    ] {
        let run = scene.open(label, 2 * batches);
        for seq in 0..batches {
            scene.client.patiently(&run, seq, &batch_from(2 * seq, &["s10", "s20"]));
        }
        scene.client.call("POST", &format!("/runs/{run}/{end}"), b"").json::<Value>(200);
    }
    let run = scene.open("monte carlo, 5000 paths", 5000);
    let work: Vec<Work> = (0..3).map(|at| Work::start(&scene.client, &run, 1000 * at, "s40")).collect();
    scene.client.patiently(&run, 9001, &batch_from(4120, &["e", "?", "p4", "e"]));
    scene.client.patiently(&run, 9002, &batch_from(871, &["a"]));
    browser.go(&format!("/dashboard/runs/{run}")).await;
    browser.until(".failures tbody", |text| text.contains("about to abort")).await;
    if pictures().is_some() {
        browser.until(".figures", |text| text.contains("20.") && text.contains(" s")).await;
    }
    let pages = [
        ("run", format!("/dashboard/runs/{run}")),
        ("runs", "/dashboard/runs".to_owned()),
        ("tokens", "/dashboard/tokens".to_owned()),
        ("credits", "/dashboard/credits".to_owned()),
        ("agents", "/dashboard/agents".to_owned()),
    ];
    for (name, page) in pages {
        for (width, dark) in [(1400, false), (1400, true), (360, false), (360, true)] {
            let height = if name == "run" && width > 1000 { 1350 } else { 900 };
            browser.look(width, height, dark).await;
            browser.go(&page).await;
            let over = "return document.documentElement.scrollWidth - window.innerWidth";
            let over = browser.run(over, vec![]).await;
            assert!(
                over.as_i64().is_some_and(|over| over <= 0),
                "{name} at {width} px is {over} px too wide"
            );
            if !dark || width > 1000 {
                browser.check_access().await;
            }
            if let Some(folder) = pictures() {
                let picture = browser.client.screenshot().await.expect("a picture");
                let scheme = if dark { "dark" } else { "light" };
                std::fs::write(folder.join(format!("dashboard-{name}-{width}-{scheme}.png")), picture)
                    .expect("a file");
            }
        }
    }
    work.into_iter().for_each(Work::end);
    browser.check_log(&[]).await;
    scene.browser.end().await;
}

fn pictures() -> Option<PathBuf> {
    std::env::var_os("FASTMAP_PICTURES").map(PathBuf::from)
}
