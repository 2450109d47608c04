//! The dashboard in a real browser. With `FASTMAP_PICTURES` set to a folder, a picture of it is written there.

use std::path::PathBuf;

use tokio::runtime::Runtime;

use crate::browser::Browser;
use crate::place::Place;
use crate::watched::Client;

/// A browser with a session.
pub(crate) struct Page {
    runtime: Runtime,
    browser: Browser,
    picture: Option<PathBuf>,
}

impl Page {
    /// Signs in as a user does.
    pub(crate) fn sign_in(place: &Place, client: &Client) -> Page {
        let link = client.link(place);
        let runtime = Runtime::new().expect("threads");
        let browser = runtime.block_on(async {
            let browser = Browser::start(client.account.url.trim_end_matches('/')).await;
            browser.go(&link).await;
            browser.until("h1", |text| text == "Sign in").await;
            browser.click("main button").await;
            browser.until("h1", |text| text == "Runs").await;
            browser
        });
        let name = |folder| PathBuf::from(folder).join(format!("{}.png", place.name.to_lowercase()));
        Page { runtime, browser, picture: std::env::var_os("FASTMAP_PICTURES").map(name) }
    }

    /// Opens the page of the open run of that label.
    pub(crate) fn open(&self, label: &str) {
        self.runtime.block_on(async {
            let browser = &self.browser;
            browser.go(&format!("/dashboard/runs?q={label}")).await;
            let run = "#runs tr:has(.badge.open) a[id^='run-']";
            browser.until(run, |text| text == label).await;
            browser.click(run).await;
            browser.until("h1", |text| text == label).await;
            browser.until(".badge", |text| text == "open").await;
        });
    }

    /// The run has ended, and the page says so, without being loaded again. Nothing that is not the service's own was
    /// asked for, and nothing was complained of.
    pub(crate) fn check_end(self) {
        let Page { runtime, browser, picture } = self;
        runtime.block_on(async {
            browser.until(".badge", |text| text == "done").await;
            browser.check_log(&[]).await;
            if let Some(picture) = picture {
                let bytes = browser.client.screenshot().await.expect("a picture");
                std::fs::write(picture, bytes).expect("room on the disk");
            }
            browser.end().await;
        });
    }
}
