//! What was measured, and what was to be reached.

use std::process::ExitCode;

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing: it is there to compare with.
    None,
}

/// One line of the table.
#[derive(Debug)]
struct Figure {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    digits: usize,
    bar: Bar,
    samples: Vec<f64>,
}

/// Everything that can be measured, in the order of the table.
const FIGURES: [(&str, &str, &str, usize, Bar); 14] = [
    ("locmem", "page hit, locmem", "", 2, Bar::AtLeast(0.95)),
    ("locmem-many", "page hit over 10,000 pages, locmem", "", 2, Bar::AtLeast(0.85)),
    ("locmem-many-by-hand", "the same out of a map that a handler looks into, for comparison", "", 2, Bar::None),
    ("memcached", "page hit, memcached", "", 2, Bar::AtLeast(0.38)),
    ("near", "page hit, memcached with a near cache", "", 2, Bar::AtLeast(0.90)),
    ("file", "page hit, file", "", 2, Bar::AtLeast(0.45)),
    ("database", "page hit, SQLite", "", 2, Bar::AtLeast(0.38)),
    ("fragment", "fragment hit, over the insertion of the ready text", " µs", 2, Bar::AtMost(1.5)),
    ("get", "`get_bytes`, locmem, 10,000 entries", " ns", 0, Bar::AtMost(250.0)),
    ("get-async", "the same by the async handle", " ns", 0, Bar::AtMost(250.0)),
    ("memory", "memory beside key and value, locmem, an entry", " B", 0, Bar::AtMost(250.0)),
    ("cold", "calls of the view by 200 clients of a cold page, locmem", "", 0, Bar::AtMost(1.0)),
    ("cold-shared", "the same over three processes, memcached", "", 0, Bar::AtMost(1.0)),
    ("cold-value", "calls of the loader by 200 callers of a cold value, locmem", "", 0, Bar::AtMost(1.0)),
];

/// The table under way.
#[derive(Debug)]
pub(crate) struct Report(Vec<Figure>);

impl Report {
    /// Makes an empty table of what has a name that begins like this.
    pub(crate) fn new(only: &str) -> Self {
        let figure = |(name, what, unit, digits, bar)| Figure { name, what, unit, digits, bar, samples: Vec::new() };
        Report(FIGURES.into_iter().filter(|(name, ..)| name.starts_with(only)).map(figure).collect())
    }

    /// Tells whether something is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.0.iter().any(|figure| figure.name == name)
    }

    /// Measures something once, if it is wanted.
    pub(crate) fn add(&mut self, name: &str, measure: impl FnOnce() -> f64) {
        if let Some(figure) = self.0.iter_mut().find(|figure| figure.name == name) {
            figure.samples.push(measure());
        }
    }

    pub(crate) fn print(&self) {
        println!("| 2 KB, one worker; pages as a share of a raw handler's speed | min | median | max | to reach |");
        println!("| --- | ---: | ---: | ---: | ---: |");
        for figure in &self.0 {
            let [least, median, most] = figure.spread().map(|number| figure.show(number));
            println!("| {} | {least} | {median} | {most} | {} |", figure.what, figure.bar());
        }
    }

    /// Names the figures whose median misses the bar.
    pub(crate) fn check(&self) -> ExitCode {
        let missed: Vec<&Figure> = self.0.iter().filter(|figure| !figure.is_reached()).collect();
        for figure in &missed {
            let [_, median, _] = figure.spread();
            eprintln!("missed: {}: {}, to reach {}", figure.what, figure.show(median), figure.bar());
        }
        if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Figure {
    /// Returns minimum, median and maximum.
    fn spread(&self) -> [f64; 3] {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        [sorted[0], median, sorted[sorted.len() - 1]]
    }

    fn is_reached(&self) -> bool {
        let [_, median, _] = self.spread();
        match self.bar {
            Bar::AtLeast(bar) => median >= bar,
            Bar::AtMost(bar) => median <= bar,
            Bar::None => true,
        }
    }

    fn show(&self, number: f64) -> String {
        format!("{number:.*}{}", self.digits, self.unit)
    }

    fn bar(&self) -> String {
        match self.bar {
            Bar::AtLeast(bar) => format!("≥ {}", self.show(bar)),
            Bar::AtMost(bar) => format!("≤ {bar}{}", self.unit),
            Bar::None => String::new(),
        }
    }
}
