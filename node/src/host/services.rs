//! `thimble-node services`.

use std::fmt::Write as _;

use thimble_spec::host::{ServiceStatus, ServicesVerb};
use thimble_spec::units::KIB;

/// The words behind `services`.
///
/// # Errors
/// A sentence.
pub fn parse(words: &[&str]) -> Result<ServicesVerb, String> {
    match *words {
        [] => Ok(ServicesVerb::List),
        ["start", name] => Ok(ServicesVerb::Start { name: name.to_owned() }),
        ["stop", name] => Ok(ServicesVerb::Stop { name: name.to_owned() }),
        ["restart", name] => Ok(ServicesVerb::Restart { name: name.to_owned() }),
        _ => Err("services takes nothing, or start, stop or restart and a name".to_owned()),
    }
}

/// A line for each.
pub fn text(services: &[ServiceStatus]) -> String {
    let mut text = String::new();
    for service in services {
        // Writing to a string does not fail.
        let _ = write!(text, "service {}: {}", service.name, service.state.name());
        if let Some(pid) = service.pid {
            let _ = write!(text, ", process {pid}");
        }
        let _ = write!(text, ", since {:.2} s after the start", service.since_s);
        if service.restarts > 0 {
            let _ = write!(text, ", started again {} times", service.restarts);
        }
        if let Some(exit) = &service.last_exit {
            let _ = write!(text, ", last {exit}");
        }
        if let Some(memory) = service.memory {
            let _ = write!(text, ", {} KiB", memory / KIB);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::host::ServiceState;

    #[test]
    fn a_line_says_how_a_service_is() {
        let service = ServiceStatus {
            name: "ntp".to_owned(),
            state: ServiceState::Ready,
            pid: Some(77),
            since_s: 2.5,
            restarts: 0,
            last_exit: None,
            memory: None,
        };
        let failing = ServiceStatus {
            name: "syslog".to_owned(),
            state: ServiceState::Paused,
            pid: None,
            restarts: 3,
            last_exit: Some("exited with 1".to_owned()),
            memory: Some(2048),
            ..service.clone()
        };
        assert_eq!(
            text(&[service, failing]),
            "service ntp: ready, process 77, since 2.50 s after the start\n\
             service syslog: paused, since 2.50 s after the start, started again 3 times, last exited with 1, 2 KiB\n"
        );
    }
}
