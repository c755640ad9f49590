//! What the user sees while he waits, on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
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
        let (name, started) = (name.into(), Instant::now());
        let view = match self.mode {
            Mode::Quiet => View::Nothing,
            Mode::Terminal => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.set_style(style("{spinner} {prefix} {elapsed} {wide_msg}"));
                bar.set_prefix(name.clone());
                bar.enable_steady_tick(TICK);
                View::Bar(bar)
            }
            Mode::Plain => {
                self.line(&format!("{name}: started"));
                let lines = Arc::new(Lines::default());
                let (shared, progress, name) = (Arc::clone(&lines), *self, name.clone());
                thread::spawn(move || shared.write(progress, &name, started));
                View::Lines(lines)
            }
        };
        Step { progress: *self, name, started, view }
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
    view: View,
}

#[derive(Debug)]
enum View {
    Nothing,
    Bar(ProgressBar),
    Lines(Arc<Lines>),
}

/// What the thread that writes plain lines looks at.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LinesState {
    message: String,
    over: bool,
}

impl Step {
    /// What it is at.
    pub fn message(&self, message: &str) {
        match &self.view {
            View::Nothing => {}
            View::Bar(bar) => bar.set_message(message.to_owned()),
            View::Lines(lines) => lines.set(|state| message.clone_into(&mut state.message)),
        }
    }

    /// How far it is, in whatever unit `total` counts.
    pub fn position(&self, done: u64, total: u64, message: &str) {
        let (done, total) = (done.min(total.max(1)), total.max(1));
        if let View::Bar(bar) = &self.view {
            if bar.length().is_none() {
                bar.set_style(style("{spinner} {prefix} {elapsed} [{bar:24}] {percent}% {wide_msg}"));
            }
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else {
            self.message(&format!("{}% {message}", done * 100 / total));
        }
    }

    /// It is done.
    pub fn done(self) {
        let (progress, name, started) = (self.progress, self.name.clone(), self.started);
        // The bar goes first, so that the line stands in its place.
        drop(self);
        progress.line(&format!("{name}: done in {:.1} s", started.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    /// A step that fails leaves no bar behind, so that the error stands alone.
    fn drop(&mut self) {
        match &self.view {
            View::Nothing => {}
            View::Bar(bar) => bar.finish_and_clear(),
            View::Lines(lines) => lines.set(|state| state.over = true),
        }
    }
}

impl Lines {
    fn set(&self, change: impl FnOnce(&mut LinesState)) {
        // A thread that panicked while it wrote a line is no reason to stop.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Writes a line now and then until the step is over.
    fn write(&self, progress: Progress, name: &str, started: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let wait = self.changed.wait_timeout_while(state, LINE_INTERVAL, |state| !state.over);
            let (now, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            state = now;
            if !timeout.timed_out() {
                return;
            }
            let message = if state.message.is_empty() { "at work" } else { &state.message };
            progress.line(&format!("{name}: {message} ({} s)", started.elapsed().as_secs()));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
