//! Where events go: written by a thread of its own, so that nobody who serves waits for whoever reads.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::serve::event::Event;

/// Events that wait for their reader; what comes then is counted only.
const WAITING: usize = 4096;
/// Lines a second, in the mean over one: whoever floods the server does not flood the disk that its output goes to.
const LINES_PER_SECOND: u32 = 1000;

/// How events look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A sentence a line.
    Lines,
    /// An object a line.
    Json,
}

/// Takes events.
#[derive(Debug)]
pub struct Journal {
    sender: Option<SyncSender<Event>>,
    omitted: std::sync::Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Writes them nowhere.
    pub fn silent() -> Self {
        Self { sender: None, omitted: Default::default(), writer: None }
    }

    /// Writes them to `output`.
    pub fn to(output: impl Write + Send + 'static, form: Form) -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        let omitted = std::sync::Arc::<AtomicU64>::default();
        let counter = std::sync::Arc::clone(&omitted);
        let writer = thread::spawn(move || write(&receiver, output, form, &counter));
        Self { sender: Some(sender), omitted, writer: Some(writer) }
    }

    /// Takes an event.
    pub fn put(&self, event: Event) {
        if let Some(sender) = &self.sender
            && sender.try_send(event).is_err()
        {
            self.omitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends when everything is written, or when that takes longer than `limit`: the reader may not read.
    pub fn close(mut self, limit: Duration) {
        self.sender = None;
        let deadline = Instant::now() + limit;
        while self.writer.as_ref().is_some_and(|writer| !writer.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn write(events: &Receiver<Event>, mut output: impl Write, form: Form, omitted: &AtomicU64) {
    let (mut second, mut lines) = (Instant::now(), 0);
    loop {
        let event = match events.recv_timeout(Duration::from_secs(1)) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if second.elapsed() >= Duration::from_secs(1) {
            (second, lines) = (Instant::now(), 0);
            let events = omitted.swap(0, Ordering::Relaxed);
            if events > 0 && put(&mut output, form, &Event::Omitted { events }).is_err() {
                return;
            }
        }
        let Some(event) = event else { continue };
        if lines == LINES_PER_SECOND {
            omitted.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        lines += 1;
        if put(&mut output, form, &event).is_err() {
            // Nobody reads any more: that stops no machine's boot.
            return;
        }
    }
    let events = omitted.swap(0, Ordering::Relaxed);
    if events > 0 {
        let _ = put(&mut output, form, &Event::Omitted { events });
    }
}

fn put(output: &mut impl Write, form: Form, event: &Event) -> std::io::Result<()> {
    match form {
        Form::Lines => writeln!(output, "{event}")?,
        Form::Json => {
            serde_json::to_writer(&mut *output, event)?;
            output.write_all(b"\n")?;
        }
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let output = Shared::default();
        let journal = Journal::to(output.clone(), Form::Lines);
        for _ in 0..50_000 {
            journal.put(Event::Serving { at: "x".to_owned() });
        }
        journal.close(Duration::from_secs(10));
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let written = text.lines().filter(|line| *line == "serving x").count();
        let omitted: usize =
            text.lines().filter_map(|line| line.strip_prefix('(')?.strip_suffix(" more)")?.parse::<usize>().ok()).sum();
        assert_eq!(written + omitted, 50_000);
        // One second's worth, or two where the machine is slow.
        assert!(written <= 5 * LINES_PER_SECOND as usize, "{written}");
    }
}
