//! Progress on standard error: a bar per step on a terminal, plain lines elsewhere, nothing where asked to be quiet.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

/// Where the steps of a build are shown.
#[derive(Clone)]
pub struct Progress {
    output: Output,
}

#[derive(Clone)]
enum Output {
    Bars(MultiProgress),
    Lines,
    Quiet,
}

/// One step of a build. Dropped without [`Step::done`], it counts as not finished and says nothing more.
pub struct Step {
    name: String,
    started: Instant,
    output: Output,
    bar: ProgressBar,
}

impl Progress {
    /// Bars if standard error is a terminal, lines otherwise.
    pub fn on_stderr() -> Self {
        let output =
            if std::io::stderr().is_terminal() { Output::Bars(MultiProgress::new()) } else { Output::Lines };
        Self { output }
    }

    /// Shows nothing.
    pub fn quiet() -> Self {
        Self { output: Output::Quiet }
    }

    /// Begins a step; `name` says what is done to what: `install packages: debian-12-compute`.
    pub fn step(&self, name: impl Into<String>) -> Step {
        let name = name.into();
        let bar = match &self.output {
            Output::Bars(bars) => bars.add(spinner(&name)),
            Output::Lines | Output::Quiet => ProgressBar::hidden(),
        };
        if let Output::Lines = self.output {
            eprintln!("{name} ...");
        }
        Step { name, started: Instant::now(), output: self.output.clone(), bar }
    }
}

impl Step {
    /// From now on the step is a bar of `total_bytes`.
    pub fn set_total(&self, total_bytes: u64) {
        self.bar.set_length(total_bytes);
        self.bar.set_style(
            ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {eta} {msg}")
                .expect("the template is valid"),
        );
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// What the step is at, for instance the last line that a tool printed.
    pub fn message(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// A line that stays: a warning, or what was decided.
    pub fn note(&self, text: &str) {
        match &self.output {
            Output::Bars(bars) => {
                // Standard error that cannot be written to leaves nobody to tell.
                let _ = bars.println(format!("{}: {text}", self.name));
            }
            Output::Lines => eprintln!("{}: {text}", self.name),
            Output::Quiet => {}
        }
    }

    /// Ends the step without a word: from now on something else writes to the terminal.
    pub fn hand_over(self) {
        self.bar.finish_and_clear();
    }

    /// Ends the step; `summary` says what came of it: `113 packages`.
    pub fn done(self, summary: &str) {
        self.bar.finish_and_clear();
        self.note(&format!("{summary} ({})", seconds(self.started.elapsed())));
    }
}

fn spinner(name: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(name.to_owned());
    bar.set_style(
        ProgressStyle::with_template("{prefix} {spinner} {elapsed} {wide_msg}")
            .expect("the template is valid"),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// `bytes` as people read it: `83.2 MiB`.
pub fn human(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}
