//! The progress of an experiment: a bar on a terminal, and one line at its end.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::ExperimentName;

pub struct Progress {
    name: String,
    bar: ProgressBar,
    begin: Instant,
}

impl Progress {
    pub fn new(name: ExperimentName) -> Progress {
        let name = clap::ValueEnum::to_possible_value(&name).map(|value| value.get_name().to_string());
        let bar = ProgressBar::new(0).with_message(name.clone().unwrap_or_default());
        if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar:.blue} {pos}/{len} {prefix} {elapsed}") {
            bar.set_style(style);
        }
        Progress { name: name.unwrap_or_default(), bar, begin: Instant::now() }
    }

    /// Adds `more` steps to the bar; `what` names them.
    pub fn expect(&self, more: u64, what: &'static str) {
        self.bar.set_prefix(what);
        self.bar.inc_length(more);
    }

    pub fn step(&self) {
        self.bar.inc(1);
    }

    pub fn done(self, folder: &Path) -> io::Result<()> {
        self.bar.finish_and_clear();
        let place = folder.join(&self.name);
        writeln!(
            io::stdout(),
            "{:12} {:5.1} s  {}.{{svg,png,csv,md}}",
            self.name,
            self.begin.elapsed().as_secs_f64(),
            place.display()
        )
    }
}
