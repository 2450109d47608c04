//! Address of a page. Its links are relative to the dashboard's root, so that they lead to the right place below any
//! path at which a proxy shows the service.

use axum::response::Redirect;

/// Below this path are the pages, as the service sees it.
pub(super) const ROOT: &str = "/dashboard";

tokio::task_local! {
    /// The path and query of the request that is answered, behind the root; it begins with a slash, or is empty.
    static PLACE: String;
}

/// Answers a request for the page at this path and query.
pub(super) async fn at<T>(path_and_query: &str, answer: impl Future<Output = T>) -> T {
    let place = path_and_query.strip_prefix(ROOT).unwrap_or_default().to_owned();
    PLACE.scope(place, answer).await
}

/// The dashboard's root, relative to the page that is asked for.
pub(super) fn root() -> String {
    PLACE.try_with(|place| root_of(place)).unwrap_or_else(|_| "./".to_owned())
}

fn root_of(place: &str) -> String {
    let path = place.split('?').next().unwrap_or_default();
    match path.matches('/').count() {
        0 => format!("{}/", ROOT.trim_start_matches('/')),
        1 => "./".to_owned(),
        deep => "../".repeat(deep - 1),
    }
}

/// The page that is asked for, relative to the dashboard's root.
pub(super) fn this_page() -> String {
    PLACE.try_with(|place| place.trim_start_matches('/').to_owned()).unwrap_or_default()
}

/// Leads to another page: `runs`, `tokens`, …
pub(super) fn to(page: &str) -> Redirect {
    Redirect::to(&format!("{}{page}", root()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_as_far_up_as_the_page_is_deep() {
        for (place, root) in [
            ("", "dashboard/"),
            ("?x=/a/b", "dashboard/"),
            ("/", "./"),
            ("/runs", "./"),
            ("/runs?label=a/b", "./"),
            ("/runs/1", "../"),
            ("/runs/1/failures", "../../"),
        ] {
            assert_eq!(root_of(place), root, "{place}");
        }
    }
}
