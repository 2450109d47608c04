//! Messages of a map under ADAPTIVE: its decisions, and its part of the closing line.

use super::policy::{Forecast, Link};
use crate::counted;

/// Formats a forecast.
pub(super) fn forecast(forecast: &Forecast) -> String {
    format!(
        "the {:.0} items left take {:.2} s here alone, and {:.2} s with it, for about {:.4} credits",
        forecast.rest, forecast.alone, forecast.together, forecast.credits
    )
}

/// Describes the use of the service, or why it was not used. `answered`: items answered locally, and by the
/// service. `repeated`: batches. `declined`: the last forecast by which the service was not used.
pub(super) fn of_map(
    answered: [u64; 2],
    repeated: u64,
    gone: Option<&str>,
    link: &Link,
    declined: Option<&Forecast>,
) -> String {
    let [here, there] = answered;
    if there > 0 {
        let twice = match repeated {
            0 => String::new(),
            more => format!(", {} done twice", counted(more, "batch")),
        };
        return format!("{} here, {there} in the service{twice}", counted(here, "item"));
    }
    if let Some(why) = gone {
        return format!("the service was not used: {why}");
    }
    match (link, declined) {
        (Link::Unknown, _) => "the service was not asked: the map is too short for it".to_owned(),
        (Link::Probing, _) => {
            "the service was not used: it was asked, and had not answered when the map was over".to_owned()
        }
        (_, Some(declined)) if declined.rest > 0.0 => {
            format!("the service was not used: {}", forecast(declined))
        }
        _ => "the service was not used: the map was over before it could help".to_owned(),
    }
}
