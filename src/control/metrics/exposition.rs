//! Writes metrics as text for a scraper, and finds out which of the two formats it wants: Prometheus' own (0.0.4) or
//! OpenMetrics (1.0). What the metrics mean never enters.
//!
//! Both are written here because no crate writes both from values that are computed at the time of the scrape:
//! `prometheus-client` writes OpenMetrics only, `prometheus` the older text only.

use std::fmt::{Display, Write};

use crate::shared::histogram::Durations;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a client likes best by its `Accept` (RFC 9110 section 12.5.1). OpenMetrics must be named and preferred: of two
    /// that it likes equally it gets Prometheus' format, as does one that accepts neither.
    pub fn accepted(accept: &str) -> Format {
        let ranges: Vec<MediaRange> = accept.split(',').filter_map(MediaRange::parse).collect();
        let quality = |name: &str| {
            let named = |wanted: &str| {
                let of_name = ranges.iter().filter(|range| range.name.eq_ignore_ascii_case(wanted));
                of_name.map(|range| range.quality).reduce(f32::max)
            };
            let group = format!("{}/*", name.split('/').next().unwrap_or_default());
            [name, &group, "*/*"].into_iter().find_map(named).unwrap_or(0.0)
        };
        if quality("application/openmetrics-text") > quality("text/plain") {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }
}

/// One entry of `Accept`.
struct MediaRange<'a> {
    name: &'a str,
    quality: f32,
}

impl MediaRange<'_> {
    /// `None`: a version that is not written here, or nothing that can be read.
    fn parse(text: &str) -> Option<MediaRange<'_>> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut quality = 1.0;
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match (key.trim().to_ascii_lowercase().as_str(), value.trim().trim_matches('"')) {
                ("q", value) => quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?,
                ("version", value) if !["1.0.0", "0.0.1", "0.0.4"].contains(&value) => return None,
                _ => {}
            }
        }
        Some(MediaRange { name, quality })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    /// What is true of something, in its labels; always 1.
    Info,
}

/// The labels of one sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(String);

impl Labels {
    pub fn new() -> Labels {
        Labels::default()
    }

    pub fn with(mut self, name: &str, value: impl Display) -> Labels {
        let comma = if self.0.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{comma}{name}=\"{}\"", escaped(&value.to_string()));
        self
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page as far as it is written. Names of families come without the ends that a format wants.
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    pub fn new(format: Format) -> Exposition {
        Exposition { format, text: String::new() }
    }

    /// A family of one sample without labels.
    pub fn value(&mut self, kind: MetricKind, name: &str, help: &str, value: impl Display) {
        self.family(kind, name, help, [(Labels::new(), value)]);
    }

    pub fn family(
        &mut self,
        kind: MetricKind,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, impl Display)>,
    ) {
        let (end, written) = match kind {
            MetricKind::Counter => ("_total", "counter"),
            MetricKind::Gauge => ("", "gauge"),
            MetricKind::Info => ("_info", if self.format == Format::OpenMetrics { "info" } else { "gauge" }),
        };
        // OpenMetrics names a family without the end of its samples.
        let family_end = if self.format == Format::OpenMetrics { "" } else { end };
        self.describe(&format!("{name}{family_end}"), written, help);
        for (labels, value) in samples {
            self.sample(&format!("{name}{end}"), labels, value);
        }
    }

    pub fn histogram(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, Durations)>) {
        self.describe(name, "histogram", help);
        for (labels, durations) in samples {
            let all = durations.count();
            for (bound, count) in durations.cumulative().chain([("+Inf", all)]) {
                self.sample(&format!("{name}_bucket"), labels.clone().with("le", bound), count);
            }
            self.sample(&format!("{name}_sum"), labels.clone(), durations.sum_seconds());
            self.sample(&format!("{name}_count"), labels, all);
        }
    }

    fn describe(&mut self, family: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {family} {}\n# TYPE {family} {kind}", help.trim());
        let unit = family.rsplit('_').next().filter(|unit| ["seconds", "bytes", "ratio"].contains(unit));
        if let Some(unit) = unit.filter(|_| self.format == Format::OpenMetrics) {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
    }

    fn sample(&mut self, name: &str, Labels(labels): Labels, value: impl Display) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.text, "{name}{open}{labels}{close} {value}");
    }

    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_a_client_prefers() {
        use Format::{OpenMetrics, Prometheus};
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/html, application/xhtml+xml, */*;q=0.8", Prometheus),
            (prometheus, OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            ("APPLICATION/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.1", OpenMetrics),
            ("application/openmetrics-text, text/plain", Prometheus),
            ("application/openmetrics-text;q=0.5, text/*;q=0.4", OpenMetrics),
            ("application/openmetrics-text;q=0, */*", Prometheus),
            ("application/*, text/plain;q=0.5", OpenMetrics),
            ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", Prometheus),
            ("application/openmetrics-text;q=2, text/plain;q=0.1", Prometheus),
            ("application/json", Prometheus),
            (";;,=,;q=", Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    fn written(format: Format) -> String {
        let mut page = Exposition::new(format);
        let labels = Labels::new().with("name", "a\"b\\c\n");
        page.family(MetricKind::Counter, "a_bytes", "bytes", [(labels, 1)]);
        page.value(MetricKind::Gauge, "b", "things", 0.5);
        page.family(MetricKind::Info, "c", "what it is", [(Labels::new().with("x", "y").with("z", 1), 1)]);
        page.finish()
    }

    #[test]
    fn each_format_names_families_as_it_wants() {
        assert_eq!(
            written(Format::Prometheus),
            "# HELP a_bytes_total bytes\n# TYPE a_bytes_total counter\na_bytes_total{name=\"a\\\"b\\\\c\\n\"} 1\n\
             # HELP b things\n# TYPE b gauge\nb 0.5\n\
             # HELP c_info what it is\n# TYPE c_info gauge\nc_info{x=\"y\",z=\"1\"} 1\n"
        );
        assert_eq!(
            written(Format::OpenMetrics),
            "# HELP a_bytes bytes\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{name=\"a\\\"b\\\\c\\n\"} 1\n\
             # HELP b things\n# TYPE b gauge\nb 0.5\n\
             # HELP c what it is\n# TYPE c info\nc_info{x=\"y\",z=\"1\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn a_histogram_ends_with_everything_its_sum_and_its_count() {
        let mut durations = Durations::default();
        durations.record(200);
        durations.record(70_000_000);
        let mut page = Exposition::new(Format::Prometheus);
        page.histogram("d_seconds", "durations", [(Labels::new().with("s", "a"), durations)]);
        let text = page.finish();
        assert!(
            text.contains("\nd_seconds_bucket{s=\"a\",le=\"0.0001\"} 0\nd_seconds_bucket{s=\"a\",le=\"0.00025\"} 1\n")
        );
        let end = "le=\"60.0\"} 1\nd_seconds_bucket{s=\"a\",le=\"+Inf\"} 2\nd_seconds_sum{s=\"a\"} 70.0002\n\
            d_seconds_count{s=\"a\"} 2\n";
        assert!(text.ends_with(end), "{text}");
    }
}
