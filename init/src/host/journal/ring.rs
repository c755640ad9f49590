//! The ring: the newest lines, in bounded memory.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use thimble_spec::console::one_line;
use thimble_spec::host::{Level, LogLine, Logs, LogsVerb};

/// So many bytes of lines are kept.
const CAPACITY: usize = 256 << 10;
/// What a line takes besides its text.
const OVERHEAD: usize = size_of::<Entry>();
/// The longest text; the rest of a longer one is cut off.
const TEXT_MAX: usize = 2048;
/// About so many bytes go into one answer: JSON may need six for a byte, and an answer has [`thimble_spec::host::LINE_MAX`].
const ANSWER: usize = 32 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    time: Duration,
    level: Level,
    source: Rc<str>,
    text: Box<str>,
}

/// The newest lines; each has a number, which counts from 1.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// How many there were before the first one that is left.
    gone: u64,
}

impl Ring {
    /// Adds a line, and lets the oldest go.
    pub fn push(&mut self, time: Duration, level: Level, source: &Rc<str>, text: &str) {
        let entry = Entry { time, level, source: source.clone(), text: one_line(text, TEXT_MAX).into() };
        self.bytes += entry.text.len() + OVERHEAD;
        self.entries.push_back(entry);
        while self.bytes > CAPACITY
            && let Some(old) = self.entries.pop_front()
        {
            self.bytes -= old.text.len() + OVERHEAD;
            self.gone += 1;
        }
    }

    /// The lines that are asked for, as many as fit into an answer.
    pub fn answer(&self, asked: &LogsVerb) -> Logs {
        let from = asked.from.max(1);
        let first = from.max(self.gone + 1);
        let lost = if asked.from == 0 { 0 } else { first - from };
        let mut logs = Logs { lines: Vec::new(), next: first, lost, more: false };
        let mut bytes = 0;
        let skipped = usize::try_from(first - self.gone - 1).unwrap_or(usize::MAX);
        for (number, entry) in (first..).zip(self.entries.iter().skip(skipped)) {
            if bytes > ANSWER {
                logs.more = true;
                break;
            }
            logs.next = number + 1;
            let grave = asked.level.is_none_or(|level| entry.level <= level);
            if grave && asked.source.as_ref().is_none_or(|source| **source == *entry.source) {
                bytes += entry.text.len() + OVERHEAD;
                logs.lines.push(LogLine {
                    number,
                    ms: u64::try_from(entry.time.as_millis()).unwrap_or(u64::MAX),
                    level: entry.level,
                    source: entry.source.to_string(),
                    text: entry.text.to_string(),
                });
            }
        }
        logs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(from: u64) -> LogsVerb {
        LogsVerb { from, level: None, source: None }
    }

    fn ring(count: u64, length: usize) -> Ring {
        let mut ring = Ring::default();
        let (a, b): (Rc<str>, Rc<str>) = ("a".into(), "b".into());
        for number in 1..=count {
            let (level, source) = if number % 2 == 0 { (Level::Info, &a) } else { (Level::Error, &b) };
            ring.push(Duration::from_millis(number), level, source, &format!("{number:length$}"));
        }
        ring
    }

    #[test]
    fn lines_are_numbered_and_chosen() {
        let ring = ring(4, 1);
        let logs = ring.answer(&asked(0));
        assert_eq!(logs.lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((logs.next, logs.lost, logs.more), (5, 0, false));
        assert_eq!(ring.answer(&asked(5)), Logs { next: 5, ..Logs::default() });
        let grave = ring.answer(&LogsVerb { level: Some(Level::Warning), ..asked(2) });
        assert_eq!(grave.lines.iter().map(|line| line.ms).collect::<Vec<_>>(), [3]);
        assert_eq!(grave.next, 5, "what was passed over is not looked at again");
        let source = ring.answer(&LogsVerb { source: Some("a".to_owned()), ..asked(0) });
        assert_eq!(source.lines.len(), 2);
    }

    #[test]
    fn an_answer_fits_on_a_line_of_the_socket() {
        let mut ring = Ring::default();
        let source: Rc<str> = "s".into();
        for _ in 0..1000 {
            ring.push(Duration::MAX, Level::Emergency, &source, &"\"\\".repeat(TEXT_MAX));
        }
        let json = serde_json::to_vec(&ring.answer(&asked(0))).unwrap();
        assert!(json.len() < thimble_spec::host::LINE_MAX / 2, "{}", json.len());
        assert!(ring.bytes <= CAPACITY);
    }

    proptest! {
        /// Whoever asks again and again gets every line once, or is told how many are gone.
        #[test]
        fn nothing_is_told_twice_and_nothing_is_lost_untold(count in 0u64..3000, length in 0usize..300, from in 0u64..4000) {
            let ring = ring(count, length);
            let mut next = from;
            let (mut seen, mut lost) = (0, 0);
            loop {
                let logs = ring.answer(&asked(next));
                for line in &logs.lines {
                    prop_assert!(line.number >= next);
                }
                seen += logs.lines.len() as u64;
                lost += logs.lost;
                next = logs.next;
                if !logs.more {
                    break;
                }
            }
            if (1..=count).contains(&from) {
                prop_assert_eq!(seen + lost, count + 1 - from);
            }
            prop_assert!(ring.bytes <= CAPACITY);
        }
    }
}
