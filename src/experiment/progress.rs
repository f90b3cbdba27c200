//! How far an experiment is: a bar where somebody watches, a line at its end everywhere.

use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::Name;

pub struct Progress {
    name: String,
    bar: ProgressBar,
    begin: Instant,
}

impl Progress {
    pub fn new(name: Name) -> Progress {
        let name = clap::ValueEnum::to_possible_value(&name).map(|value| value.get_name().to_string());
        let bar = ProgressBar::new(0).with_message(name.clone().unwrap_or_default());
        if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar:.blue} {pos}/{len} {prefix} {elapsed}") {
            bar.set_style(style);
        }
        Progress { name: name.unwrap_or_default(), bar, begin: Instant::now() }
    }

    /// So many more of something are ahead.
    pub fn expect(&self, more: u64, of: &'static str) {
        self.bar.set_prefix(of);
        self.bar.inc_length(more);
    }

    pub fn step(&self) {
        self.bar.inc(1);
    }

    pub fn done(self, folder: &Path) {
        self.bar.finish_and_clear();
        let place = folder.join(&self.name);
        println!(
            "{:12} {:5.1} s  {}.{{svg,png,csv,md}}",
            self.name,
            self.begin.elapsed().as_secs_f64(),
            place.display()
        );
    }
}
