//! The page as text. Whatever was not written here goes through [`escaped`], for a guest writes its console, and an image or an
//! event may hold anything.

use std::fmt::Write as _;
use std::time::Duration;

use thimble_spec::api::event::{Event, What};
use thimble_spec::api::guest::{Guest, State, Verb};
use thimble_spec::api::node::Node;
use thimble_spec::api::task::{self, Task};
use thimble_spec::slot::Origin;

use super::curves;
use crate::api::history::Sample;
use crate::syslog::format::timestamp;

/// What keeps the page true.
const SCRIPT: &str = "<script src=\"/page.js\" defer></script>\n";
/// What makes a terminal of the console.
const TERMINAL: &str = "<link rel=\"stylesheet\" href=\"/xterm.css\">\n<script src=\"/xterm.js\" defer></script>\n\
                        <script src=\"/console.js\" defer></script>\n";

/// All that the page shows.
#[derive(Debug)]
pub struct Shown {
    /// The host.
    pub node: Node,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The slot that it was started from; none if that was no flash disk.
    pub slot: Option<Origin>,
    /// Its guests, or the one that is named.
    pub guests: Vec<One>,
    /// One is named: what is shown is that guest, and its console.
    pub named: bool,
    /// A terminal is packed for the console.
    pub terminal: bool,
    /// Its links, a line each.
    pub links: Vec<String>,
    /// Its disks and what is made of them, a line each.
    pub storage: Vec<String>,
    /// Tasks, newest first.
    pub tasks: Vec<Task>,
    /// Events, newest first.
    pub events: Vec<Event>,
    /// Whether whoever looks may start and stop guests.
    pub may_operate: bool,
}

/// A guest.
#[derive(Debug)]
pub struct One {
    /// What it is and does.
    pub guest: Guest,
    /// The last lines of its console, if they are shown.
    pub console: Option<String>,
    /// What it did of late.
    pub past: Vec<Sample>,
}

/// Text that says nothing but itself, in an element and in an attribute.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

/// The page. What a script is to replace when it is asked for anew stands in elements of the class `fresh`.
pub fn page(shown: &Shown) -> String {
    match &shown.guests[..] {
        [one] if shown.named => of_guest(shown, one),
        _ => of_all(shown),
    }
}

fn of_all(shown: &Shown) -> String {
    let name = escaped(&shown.node.name);
    let mut main = host(shown);
    main.push_str("<h2>Guests</h2>\n<div class=\"guests\">\n");
    for one in &shown.guests {
        main.push_str(&article(one, one.console.as_deref(), shown.may_operate));
    }
    main.push_str("</div>\n");
    main.push_str(&lines("Links", &shown.links));
    main.push_str(&lines("Storage", &shown.storage));
    main.push_str(&tasks(&shown.tasks));
    main.push_str(&events(&shown.events));
    whole(&name, &format!("<div class=\"fresh\">\n{main}</div>\n"), &[SCRIPT])
}

fn of_guest(shown: &Shown, one: &One) -> String {
    let name = escaped(&one.guest.name);
    let host = escaped(&shown.node.name);
    let mut main = format!("<nav><a href=\"/\">All of {host}</a></nav>\n<div class=\"fresh\">\n");
    // Its console stands below.
    main.push_str(&article(one, None, shown.may_operate));
    main.push_str("</div>\n");
    // Writing to a string does not fail.
    let _ = write!(
        main,
        "<section id=\"console\" data-guest=\"{name}\" data-types=\"{}\">\n<h2>Console</h2>\n\
         <p id=\"seat\" role=\"status\"></p>\n<div id=\"terminal\"></div>\n<div class=\"fresh\">{}</div>\n</section>\n",
        shown.may_operate,
        past(one.console.as_deref().unwrap_or("The guest is off."))
    );
    let _ = write!(main, "<div class=\"fresh\">\n{}{}</div>\n", tasks(&shown.tasks), events(&shown.events));
    whole(&name, &main, if shown.terminal { &[SCRIPT, TERMINAL] } else { &[SCRIPT] })
}

/// A page that says why something was not done.
pub fn refused(sentence: &str) -> String {
    whole("Refused", &format!("<p id=\"problem\">{}</p>\n<p><a href=\"/\">Back</a></p>\n", escaped(sentence)), &[])
}

fn whole(title: &str, main: &str, scripts: &[&str]) -> String {
    let problem = if scripts.is_empty() { "" } else { "<p id=\"problem\" role=\"status\"></p>\n" };
    let scripts = scripts.concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"/page.css\">\n{scripts}</head>\n<body>\n<header><h1>{title}</h1></header>\n\
         {problem}<main>\n{main}</main>\n</body>\n</html>\n"
    )
}

fn host(shown: &Shown) -> String {
    let node = &shown.node;
    let load = node.load.map(|load| format!("{load:.2}")).join(" ");
    let used = node.memory_mib.saturating_sub(node.memory_available_mib);
    let warm = node.temperatures.iter();
    let warm: Vec<String> = warm.map(|it| format!("{} {} {:.0} °C", it.chip, it.sensor, it.celsius)).collect();
    let slot = shown
        .slot
        .map_or_else(|| "-".to_owned(), |it| format!("{}{}", it.slot, if it.trial { ", on trial" } else { "" }));
    let rows = [
        ("Addresses", if shown.addresses.is_empty() { "-".to_owned() } else { shown.addresses.join(", ") }),
        ("Guests", format!("{}, {} run", node.guests, node.running)),
        ("Up", duration(node.uptime_s)),
        ("Load", format!("{load}, {} processors", node.cpus)),
        ("Memory", format!("{used} of {} MiB used", node.memory_mib)),
        ("Temperatures", if warm.is_empty() { "-".to_owned() } else { warm.join(", ") }),
        ("Processor", node.cpu_model.clone()),
        ("Kernel", node.kernel.clone()),
        ("Slot", slot),
        ("Manifest", node.manifest.clone().unwrap_or_default().chars().take(12).collect()),
    ];
    let rows = rows.map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value))).concat();
    format!("<dl>\n{rows}</dl>\n")
}

fn article(one: &One, console: Option<&str>, may_operate: bool) -> String {
    let guest = &one.guest;
    let name = escaped(&guest.name);
    let class = match guest.state {
        State::Running => "running",
        State::Off => "off",
        _ => "between",
    };
    let mut text = format!(
        "<article id=\"guest-{name}\" data-active=\"{}\"><header><h3><a href=\"/?guest={name}\">{name}</a></h3>\
         <span class=\"state {class}\">{}</span></header>\n",
        !matches!(guest.state, State::Off | State::Starting),
        guest.state
    );
    let up = guest.uptime_s.map_or_else(|| "-".to_owned(), duration);
    let ready = guest.ready_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"));
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "<dl><dt>Why</dt><dd>{}</dd><dt>Up</dt><dd>{up}</dd><dt>Ready after</dt><dd>{ready}</dd>\
         <dt>vCPUs</dt><dd>{}</dd><dt>Memory</dt><dd>{} MiB</dd></dl>",
        escaped(&guest.reason),
        guest.vcpus,
        guest.memory_mib
    );
    text.push_str(&curves::of(&one.past, guest.memory_mib));
    text.push_str(&console.map(past).unwrap_or_default());
    if may_operate {
        for verb in offered(guest.state) {
            let (path, label) = (verb.name(), verb.name().replace('-', " "));
            let _ = writeln!(
                text,
                "<form method=\"post\" action=\"/v1/guests/{name}/{path}\"><button>{label}</button></form>"
            );
        }
    }
    text.push_str("</article>\n");
    text
}

fn past(console: &str) -> String {
    format!("<pre>{}</pre>\n", escaped(console))
}

/// What is of use in a state, and loses nothing.
fn offered(state: State) -> &'static [Verb] {
    match state {
        State::Off => &[Verb::Start],
        State::Running => &[Verb::Shutdown, Verb::Reboot, Verb::Suspend],
        State::Paused => &[Verb::Resume],
        State::ShuttingDown => &[Verb::Destroy],
        State::Starting => &[],
    }
}

fn lines(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines.iter().map(|line| format!("<li>{}</li>\n", escaped(line))).collect();
    format!("<h2>{title}</h2>\n<ul>\n{lines}</ul>\n")
}

fn tasks(tasks: &[Task]) -> String {
    let row = |task: &Task| {
        let class = if task.state == task::State::Failed { " class=\"failed\"" } else { "" };
        format!(
            "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            time(task.began_ms),
            escaped(&task.guest),
            task.verb.name(),
            escaped(&task.progress)
        )
    };
    table("Tasks", tasks.iter().map(row).collect())
}

fn events(events: &[Event]) -> String {
    let row = |event: &Event| {
        let what = match &event.what {
            What::Guest { guest, state, reason } => format!("guest {guest}: {state} ({reason})"),
            What::Ready { guest, seconds } => format!("guest {guest}: ready after {seconds:.2} s"),
            What::Defined { guest, revision: Some(revision) } => format!("guest {guest}: defined, revision {revision}"),
            What::Defined { guest, revision: None } => format!("guest {guest}: is no more"),
            What::Task { task } => format!("task: {} {}: {}", task.verb.name(), task.guest, task.progress),
            What::Lost => "events are missing here".to_owned(),
        };
        format!("<tr><td>{}</td><td>{}</td></tr>\n", time(event.time_ms), escaped(&what))
    };
    table("Events", events.iter().map(row).collect())
}

fn table(title: &str, rows: String) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("<h2>{title}</h2>\n<div class=\"table\"><table>\n{rows}</table></div>\n")
}

/// To the second, in UTC.
fn time(ms: u64) -> String {
    let text = timestamp(Duration::from_millis(ms));
    text.split('.').next().unwrap_or_default().replace('T', " ")
}

fn duration(seconds: f64) -> String {
    // No machine runs longer than a number of seconds can say.
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thimble_spec::api::node::Temperature;
    use thimble_spec::slot::{Slot, VolumeId};

    /// A page of which everything says `text` that is not ours.
    fn saying(text: &str, may_operate: bool) -> String {
        page(&shown(text, may_operate))
    }

    /// That of one guest.
    fn of_one(text: &str, may_operate: bool) -> String {
        let mut shown = shown(text, may_operate);
        shown.guests.truncate(1);
        page(&Shown { named: true, terminal: true, ..shown })
    }

    fn shown(text: &str, may_operate: bool) -> Shown {
        let own = || text.to_owned();
        let node = Node {
            name: own(),
            version: own(),
            manifest: Some(own()),
            kernel: own(),
            cpu_model: own(),
            cpus: 2,
            memory_mib: 2048,
            memory_available_mib: 1024,
            uptime_s: 90_061.0,
            load: [0.0; 3],
            guests: 2,
            running: 1,
            temperatures: vec![Temperature { chip: own(), sensor: own(), celsius: 41.4 }],
        };
        let guest = |name: &str, state| Guest {
            name: name.to_owned(),
            state,
            reason: own(),
            pid: None,
            uptime_s: Some(61.0),
            ready_s: Some(1.5),
            starts: 1,
            autostart: true,
            defined: thimble_spec::api::guest::Origin::Image,
            waits: false,
            vcpus: 1,
            memory_mib: 64,
        };
        let task = Task {
            id: own(),
            guest: own(),
            verb: task::Job::Verb(Verb::Start),
            state: task::State::Failed,
            progress: own(),
            began_ms: 0,
            ended_ms: None,
        };
        let what = What::Guest { guest: own(), state: State::Off, reason: own() };
        Shown {
            node,
            named: false,
            terminal: false,
            addresses: vec![own()],
            slot: Some(Origin { slot: Slot::B, volume: VolumeId(1), trial: true }),
            guests: vec![
                One { guest: guest("web1", State::Running), console: Some(own()), past: vec![Sample::default(); 2] },
                One { guest: guest("web2", State::Off), console: None, past: Vec::new() },
            ],
            links: vec![own()],
            storage: vec![own()],
            events: vec![
                Event { id: own(), time_ms: 0, what },
                Event { id: own(), time_ms: 0, what: What::Task { task: task.clone() } },
            ],
            tasks: vec![task],
            may_operate,
        }
    }

    #[test]
    fn the_page_shows_what_is_and_offers_what_may_be_done() {
        let page = saying("x", true);
        for wanted in [
            "1 d 1 h",
            "<dd>b, on trial</dd>",
            "<svg",
            "x x 41 °C",
            "1024 of 2048 MiB",
            "action=\"/v1/guests/web1/shutdown\"",
            "action=\"/v1/guests/web2/start\"",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        assert!(!page.contains("web1/destroy"), "{page}");
        let page = saying("x", false);
        assert!(!page.contains("<form") && !page.contains("<button"), "{page}");
    }

    #[test]
    fn the_page_of_a_guest_has_its_console_and_says_who_may_type() {
        let page = of_one("x", true);
        for wanted in [
            "<title>web1</title>",
            "data-guest=\"web1\" data-types=\"true\"",
            "src=\"/console.js\"",
            "<pre>x</pre>",
            "href=\"/\"",
            "action=\"/v1/guests/web1/shutdown\"",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        assert!(!page.contains("web2") && page.matches("<pre>").count() == 1, "{page}");
        let page = of_one("x", false);
        assert!(page.contains("data-types=\"false\"") && !page.contains("<form"), "{page}");
        // Without a terminal, no script asks for one.
        let mut shown = shown("x", true);
        shown.guests.truncate(1);
        assert!(!super::page(&Shown { named: true, ..shown }).contains("xterm"));
    }

    proptest! {
        /// Whatever anybody writes, the page has the elements that it has.
        #[test]
        fn nothing_that_is_shown_is_markup(text in "[ -~]*|.*|[<>&\"'/a-z=]{0,40}") {
            let marks = |page: &str| page.matches(['<', '>', '"', '\'']).count();
            prop_assert_eq!(marks(&saying(&text, true)), marks(&saying("x", true)));
            prop_assert_eq!(marks(&of_one(&text, true)), marks(&of_one("x", true)));
        }
    }
}
