//! What the user sees while he waits, on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The least time between two plain lines about one step.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two turns of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Plain,
    Terminal,
}

/// Shows what is going on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    mode: Mode,
}

impl Progress {
    /// A bar if standard error is a terminal, lines if not, nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Terminal,
            (false, false) => Mode::Plain,
        };
        Self { mode }
    }

    /// Says nothing.
    pub fn quiet() -> Self {
        Self { mode: Mode::Quiet }
    }

    /// A step starts.
    pub fn step(&self, name: impl Into<String>) -> Step {
        let name = name.into();
        let bar = (self.mode == Mode::Terminal).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{spinner} {prefix} {elapsed} {wide_msg}"));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        let now = Instant::now();
        let step = Step { progress: *self, name, started: now, bar, said: Mutex::new(now) };
        if self.mode == Mode::Plain {
            self.line(&format!("{}: started", step.name));
        }
        step
    }

    /// A step that need not be done.
    pub fn reused(&self, name: &str) {
        self.line(&format!("{name}: reused from the cache"));
    }

    /// Something that the user should know, although it stops nothing.
    pub fn warn(&self, sentence: &str) {
        // Quiet silences progress, not warnings.
        let _ = writeln!(std::io::stderr(), "thimble: warning: {sentence}");
    }

    fn line(&self, text: &str) {
        if self.mode != Mode::Quiet {
            // A closed standard error stops no build.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Something that takes time.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    /// When a plain line was last written.
    said: Mutex<Instant>,
}

impl Step {
    /// What it is at.
    pub fn message(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(message.to_owned()),
            None => self.plain(message),
        }
    }

    /// How far it is, in whatever unit `total` counts.
    pub fn position(&self, done: u64, total: u64, message: &str) {
        let (done, total) = (done.min(total.max(1)), total.max(1));
        match &self.bar {
            Some(bar) => {
                if bar.length().is_none() {
                    bar.set_style(style("{spinner} {prefix} {elapsed} [{bar:24}] {percent}% {wide_msg}"));
                }
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            None => self.plain(&format!("{}% {message}", done * 100 / total)),
        }
    }

    fn plain(&self, message: &str) {
        let Ok(mut said) = self.said.lock() else { return };
        if self.progress.mode == Mode::Plain && said.elapsed() >= LINE_INTERVAL {
            *said = Instant::now();
            self.progress.line(&format!("{}: {message} ({} s)", self.name, self.started.elapsed().as_secs()));
        }
    }

    /// It is done.
    pub fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.line(&format!("{}: done in {:.1} s", self.name, self.started.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    /// A step that fails leaves no bar behind, so that the error stands alone.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
