//! What a guest did of late as small curves, drawn here: the page shows them without a script, and no style stands in it.

use std::fmt::Write as _;

use thimble_spec::units::MIB;

use crate::api::history::{EVERY, KEPT, Sample};

/// Height of a curve; a sample is [`STEP`] wide. Its style makes it as large as there is room.
const HEIGHT: f32 = 24.0;
/// See [`HEIGHT`].
const STEP: usize = 2;
/// What the highest point of a curve is at least, so that a guest at rest has a flat one: a twentieth of a processor.
const CPUS_TOP: f32 = 0.05;
/// The same for disks and interfaces, in bytes a second.
const BYTES_TOP: f32 = 4096.0;

/// Processor, memory, disk and network of a guest with so much memory; nothing before there are two samples, for one is no
/// curve.
pub fn of(samples: &[Sample], memory_mib: u64) -> String {
    if samples.len() < 2 {
        return String::new();
    }
    let memory_top = (memory_mib * MIB) as f32;
    let curves = [
        curve("CPU", samples, CPUS_TOP, percent, |sample| sample.cpus),
        curve("Memory", samples, memory_top, amount, |sample| sample.memory),
        curve("Disk", samples, BYTES_TOP, rate, |sample| sample.disk),
        curve("Network", samples, BYTES_TOP, rate, |sample| sample.network),
    ];
    format!("<div class=\"curves\">\n{}</div>\n", curves.concat())
}

fn curve(name: &str, samples: &[Sample], top: f32, say: fn(f32) -> String, of: fn(&Sample) -> f32) -> String {
    let values: Vec<f32> = samples.iter().map(of).collect();
    let most = values.iter().copied().fold(0.0, f32::max);
    let top = most.max(top);
    // The newest stands at the right end, wherever the first one is.
    let first = KEPT.saturating_sub(values.len());
    let mut points = String::new();
    for (place, value) in (first..).zip(&values) {
        // Writing to a string does not fail.
        let _ = write!(points, "{},{} ", place * STEP, (HEIGHT * (1.0 - value / top)).round());
    }
    let newest = say(values.last().copied().unwrap_or_default());
    let minutes = KEPT as u64 * EVERY.as_secs() / 60;
    format!(
        "<div><span>{name}</span><b>{newest}</b><svg viewBox=\"0 -1 {} {}\" preserveAspectRatio=\"none\" role=\"img\">\
         <title>{name} in the last {minutes} minutes, at most {}</title><polyline points=\"{}\"/></svg></div>\n",
        (KEPT - 1) * STEP,
        HEIGHT + 2.0,
        say(most),
        points.trim_end()
    )
}

/// Of one processor: a guest with two can have 200 %.
fn percent(cpus: f32) -> String {
    format!("{:.0} %", cpus * 100.0)
}

fn amount(bytes: f32) -> String {
    format!("{:.0} MiB", bytes / MIB as f32)
}

fn rate(bytes: f32) -> String {
    match bytes {
        ..1000.0 => format!("{bytes:.0} B/s"),
        ..1e6 => format!("{:.0} kB/s", bytes / 1e3),
        _ => format!("{:.1} MB/s", bytes / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_at_the_right_and_its_highest_point_is_at_the_top() {
        let sample = |cpus| Sample { cpus, memory: 16e6, disk: 0.0, network: 2.5e6 };
        assert_eq!(of(&[sample(0.5)], 64), "");
        let drawn = of(&[sample(0.5), sample(1.5), sample(0.0)], 64);
        assert!(drawn.contains("<polyline points=\"114,16 116,0 118,24\"/>"), "{drawn}");
        assert!(drawn.contains("<title>CPU in the last 10 minutes, at most 150 %</title>"), "{drawn}");
        for wanted in ["<b>0 %</b>", "<b>15 MiB</b>", "<b>0 B/s</b>", "<b>2.5 MB/s</b>"] {
            assert!(drawn.contains(wanted), "{wanted}: {drawn}");
        }
        assert_eq!(drawn.matches("<svg").count(), 4);
        assert!(!drawn.contains("style="), "the page's policy refuses that: {drawn}");
    }

    #[test]
    fn numbers_have_the_unit_that_suits_them() {
        assert_eq!([rate(0.0), rate(999.4), rate(1500.0), rate(2e6)], ["0 B/s", "999 B/s", "2 kB/s", "2.0 MB/s"]);
    }
}
