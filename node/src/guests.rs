//! `thimble-node guests`: what each guest does, and which kernel and initramfs it runs and will run next.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use thimble_spec::paths;
use thimble_spec::vmm::{Answer, CONTROL_FILE, State, Verb};

use crate::control::Control;
use crate::definitions::{Book, Store};
use crate::plan::Place;
use crate::shared::{self, Hashes, Shared};

/// Digits of a hash that people see: enough to tell two versions apart.
const DIGITS: usize = 12;

#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    /// None: it is off.
    state: Option<State>,
    ready: bool,
    autostart: bool,
    /// What it was started with, if it runs.
    runs: Option<Hashes>,
    /// What its next start takes.
    next: Option<Hashes>,
    /// Whether its kernel is none of those that guests share.
    own_kernel: bool,
}

/// Shows them.
///
/// # Errors
/// The appliance cannot be read.
pub async fn run(json: bool) -> Result<()> {
    let appliance = crate::node::appliance(Path::new(paths::APPLIANCE))?;
    let book = Book::open(Arc::new(appliance), Store::open());
    let next = Shared::default().next().hashes;
    let mut guests = Vec::new();
    for guest in book.guests_as_found().into_iter().map(|it| Arc::unwrap_or_clone(it.guest)) {
        let place = Place::of(&guest.name);
        let status = status(&place).await;
        let own_kernel = guest.boot.is_some();
        let (state, ready) = status.map_or((None, false), |(state, ready)| (Some(state), ready || own_kernel));
        let next = next.clone().filter(|_| !own_kernel);
        let runs = state.and_then(|_| shared::started_with(&place));
        guests.push(Shown { name: guest.name, state, ready, autostart: guest.autostart, runs, next, own_kernel });
    }
    if json {
        println!("{}", serde_json::to_string(&guests)?);
    } else {
        print!("{}", text(&guests));
    }
    Ok(())
}

/// What the guest's VMM says; none if there is none.
async fn status(place: &Place) -> Option<(State, bool)> {
    let answer = Control::connect(&place.file(CONTROL_FILE)).await.ok()?.ask(Verb::Status).await.ok()?;
    match answer {
        Answer::Status(status) => Some((status.state, status.ready_s.is_some())),
        _ => None,
    }
}

fn text(guests: &[Shown]) -> String {
    let mut text = String::new();
    for guest in guests {
        let state = match (guest.state, guest.ready) {
            (None, _) => "off",
            (Some(State::Running), true) => "ready",
            (Some(State::Running), false) => "starting",
            (Some(State::Paused), _) => "paused",
            (Some(State::ShuttingDown), _) => "shutting down",
        };
        // Writing to a string does not fail.
        let _ = write!(text, "guest {}: {state}", guest.name);
        if guest.own_kernel {
            text.push_str(", has a kernel of its own\n");
            continue;
        }
        if guest.state.is_some() {
            let _ = write!(text, ", runs {}", shown(guest.runs.as_ref()));
        }
        if guest.state.is_none() || guest.runs != guest.next {
            let _ = write!(text, ", next start takes {}", shown(guest.next.as_ref()));
        }
        text.push('\n');
    }
    text
}

fn shown(hashes: Option<&Hashes>) -> String {
    let short = |hash: &str| hash.get(..DIGITS).unwrap_or(hash).to_owned();
    hashes.map_or("an unknown kernel".to_owned(), |hashes| {
        format!("kernel {} initrd {}", short(&hashes.kernel), short(&hashes.initrd))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_runs_and_what_comes_next() {
        let hashes = |digit: &str| Some(Hashes { kernel: digit.repeat(64), initrd: "e".repeat(64) });
        let guest = |name: &str, state, ready, runs| Shown {
            name: name.to_owned(),
            state,
            ready,
            autostart: true,
            runs,
            next: hashes("b"),
            own_kernel: false,
        };
        let guests = [
            guest("web1", Some(State::Running), true, hashes("b")),
            guest("web2", Some(State::Running), false, hashes("a")),
            guest("web3", None, false, None),
            Shown { own_kernel: true, ..guest("debian", Some(State::Running), true, None) },
        ];
        assert_eq!(
            text(&guests),
            "guest web1: ready, runs kernel bbbbbbbbbbbb initrd eeeeeeeeeeee\n\
             guest web2: starting, runs kernel aaaaaaaaaaaa initrd eeeeeeeeeeee, next start takes kernel bbbbbbbbbbbb \
             initrd eeeeeeeeeeee\n\
             guest web3: off, next start takes kernel bbbbbbbbbbbb initrd eeeeeeeeeeee\n\
             guest debian: ready, has a kernel of its own\n"
        );
    }
}
