//! Holds `docs/metrics.md` to the code, both ways: names, types, labels, and the values of labels.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{MetricFamily, MetricType};

use super::Metrics;

const REFERENCE: &str = include_str!("../../docs/metrics.md");

#[test]
fn the_reference_lists_every_metric_with_its_type_and_labels_and_no_other() {
    let rows: BTreeMap<String, (String, BTreeSet<String>)> = rows(REFERENCE)
        .into_iter()
        .filter(|cells| cells.len() == 4)
        .map(|cells| {
            (ticked(&cells[0]).concat(), (cells[1].clone(), ticked(&cells[2]).into_iter().collect()))
        })
        .collect();
    let families = Metrics::new().registry().gather();
    let registered = families.iter().map(|family| {
        let labels = label_values(family).into_iter().map(|(label, _)| label).collect();
        (family.name().to_owned(), (kind(family).to_owned(), labels))
    });
    assert_eq!(rows, registered.collect());
}

#[test]
fn the_reference_explains_every_value_of_every_label_and_no_other() {
    let families = Metrics::new().registry().gather();
    let documented: BTreeSet<(String, String)> = REFERENCE
        .split("\n### ")
        .skip(1)
        .flat_map(|section| {
            let heading = section.lines().next().unwrap_or_default().replace('`', "");
            rows(section).into_iter().map(move |cells| (heading.clone(), ticked(&cells[0]).concat()))
        })
        .collect();
    let mut exported = BTreeSet::new();
    for family in &families {
        for (label, value) in label_values(family) {
            match label.as_str() {
                "version" => {}
                "reason" => drop(exported.insert((format!("{}: reason", family.name()), value))),
                _ => drop(exported.insert((label, value))),
            }
        }
    }
    assert_eq!(documented, exported);
}

/// The rows of tables that begin with a name in backticks, cell by cell.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

/// What stands in backticks in a cell.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn label_values(family: &MetricFamily) -> BTreeSet<(String, String)> {
    let pairs = family.get_metric().iter().flat_map(|metric| metric.get_label());
    pairs.map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect()
}

fn kind(family: &MetricFamily) -> &'static str {
    match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}
