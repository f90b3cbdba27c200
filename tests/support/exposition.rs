//! Reads a page of metrics as strictly as its format is specified: Prometheus' text format 0.0.4, and OpenMetrics 1.0. It
//! panics at the first line that is wrong.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// All families, in their order.
pub fn parse(text: &str, format: Format) -> Vec<Family> {
    let body = match (format, text.strip_suffix("# EOF\n")) {
        (Format::OpenMetrics, Some(body)) => body,
        (Format::OpenMetrics, None) => panic!("OpenMetrics ends with # EOF"),
        (Format::Prometheus, _) => text,
    };
    assert!(body.ends_with('\n') && !body.contains("# EOF"), "the last line ends too");
    let mut families: Vec<Family> = Vec::new();
    let mut helped: Option<&str> = None;
    for line in body.strip_suffix('\n').expect("an end").split('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no text: {line}"));
            assert!(!help.is_empty() && help.trim() == help, "{line}");
            helped = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
            assert_eq!(helped.take(), Some(name), "HELP stands before TYPE: {line}");
            families.push(family(name, kind, format));
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let last = &families.last().expect("UNIT stands behind TYPE").name;
            let (name, unit) = rest.split_once(' ').unwrap_or_else(|| panic!("no unit: {line}"));
            assert!(format == Format::OpenMetrics && name == last && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            assert!(!line.starts_with('#') && helped.is_none(), "{line}");
            let family = families.last_mut().unwrap_or_else(|| panic!("a sample without a family: {line}"));
            family.samples.push(sample(line));
        }
    }
    let names: BTreeSet<&str> = families.iter().map(|family| family.name.as_str()).collect();
    assert_eq!(names.len(), families.len(), "a family stands in one place");
    families.iter().for_each(|family| check(family, format));
    families
}

fn family(name: &str, kind: &str, format: Format) -> Family {
    let kinds: &[&str] = match format {
        Format::Prometheus => &["counter", "gauge", "histogram"],
        Format::OpenMetrics => &["counter", "gauge", "histogram", "info"],
    };
    assert!(is_name(name) && kinds.contains(&kind), "{name} {kind}");
    Family { name: name.into(), kind: kind.into(), samples: Vec::new() }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.starts_with(|c: char| allowed(c) && !c.is_ascii_digit()) && name.chars().all(allowed)
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label) && !label.contains(':'), "{line}");
            assert!(labels.iter().all(|(other, _)| other != label), "a label twice: {line}");
            let (value, after) = label_value(after).unwrap_or_else(|| panic!("a label that is not closed: {line}"));
            labels.push((label.into(), value));
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("labels that are not closed: {line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap_or_else(|_| panic!("{line}")) };
    Sample { name: name.into(), labels, value }
}

/// The value up to its closing quote, unescaped, and what stands behind it.
fn label_value(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

fn check(family: &Family, format: Format) {
    let Family { name, kind, samples } = family;
    let distinct: BTreeSet<String> =
        samples.iter().map(|sample| format!("{} {:?}", sample.name, sample.labels)).collect();
    assert_eq!(distinct.len(), samples.len(), "{name}: a sample twice");
    let end = match (kind.as_str(), format) {
        ("counter", Format::OpenMetrics) => "_total",
        ("info", _) => "_info",
        ("histogram", _) => return check_histogram(family, format),
        _ => "",
    };
    assert!(kind != "counter" || format == Format::OpenMetrics || name.ends_with("_total"), "{name}");
    for sample in samples {
        assert_eq!(sample.name, format!("{name}{end}"));
        assert!(kind != "counter" || sample.value >= 0.0, "{sample:?}");
        assert!(kind != "info" || sample.value == 1.0, "{sample:?}");
    }
}

fn check_histogram(Family { name, samples, .. }: &Family, format: Format) {
    let mut series: BTreeMap<Vec<(String, String)>, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let labels = sample.labels.iter().filter(|(label, _)| label != "le").cloned().collect();
        series.entry(labels).or_default().push(sample);
    }
    for samples in series.values() {
        let [buckets @ .., sum, count] = &samples[..] else { panic!("{name}: no sum and count") };
        assert_eq!((sum.name.as_str(), count.name.as_str()), (&*format!("{name}_sum"), &*format!("{name}_count")));
        let bounds: Vec<(f64, f64)> =
            buckets.iter().map(|bucket| (bound(bucket, name, format), bucket.value)).collect();
        assert!(bounds.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{bounds:?}");
        assert_eq!(bounds.last(), Some(&(f64::INFINITY, count.value)), "{name}");
    }
}

fn bound(bucket: &Sample, name: &str, format: Format) -> f64 {
    assert_eq!(bucket.name, format!("{name}_bucket"));
    let le = bucket.label("le").unwrap_or_else(|| panic!("no le: {bucket:?}"));
    // OpenMetrics wants floating-point numbers in their one form.
    assert!(format == Format::Prometheus || le == "+Inf" || le.contains('.'), "{le}");
    if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a number") }
}
