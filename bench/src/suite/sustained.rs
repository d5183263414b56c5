//! A rate that is held for minutes: does the tail stay, does the memory.

use super::bed::{Bed, figures, observed};
use super::net::ctp_row;
use super::runner::{Figures, Spec};
use super::sites::{Sites, skip};
use crate::baseline::tcp;
use crate::ctp::Setup;
use crate::load::Load;
use crate::peer::{self, Stack};
use crate::site::Site;
use crate::units::show_bytes;

/// Parts of a run that are looked at one by one.
const WINDOWS: usize = 10;

/// Messages at held rates, beside TCP: open loop, latency from when each was due.
pub fn sustained<'a>(
    bed: Bed,
    sites: &'a Sites,
    backend: &str,
    rates: &[u64],
    message: usize,
) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        if let Site::Remote { .. } = **site {
            let why = "latency from when due needs one clock for both ends, and two hosts have two";
            specs.push(skip(&[("over", site.name())], why));
            continue;
        }
        for &rate in rates {
            let interval_ns = (message as f64 / rate.max(1) as f64 * 1e9) as u64;
            let load = Load::Paced {
                len: message,
                interval_ns,
                windows: WINDOWS,
            };
            let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
            setup.load = load;
            setup.observe = true;
            let tcp = Stack::PacedTcp(tcp::Paced {
                len: message,
                interval_ns,
                windows: WINDOWS,
            });
            let (held, len) = (format!("{}/s", show_rate(rate)), show_bytes(message as u64));
            let group = format!("{} {held}", site.name());
            for (stack, name) in [(tcp, "tcp"), (Stack::Ctp(setup.clone()), "ctp96")] {
                let params = [
                    ("stack", name),
                    ("over", site.name()),
                    ("rate", &held),
                    ("message", &len),
                ];
                let load = setup.load.clone();
                let run = move |warming: bool| {
                    let seconds = match warming {
                        true => bed.seconds.min(1.0),
                        false => bed.seconds,
                    };
                    let task = bed.task(load.whole((rate as f64 * seconds) as u64));
                    let sent = peer::run_observed(site, &task, "cubic", stack.clone())?;
                    let figures = observed(figures(&sent.0), sent.1);
                    Ok(held_rate(figures, rate))
                };
                let spec = Spec::new(&params, run).group(group.as_str());
                specs.push(match name {
                    "tcp" => spec.baseline("tcp"),
                    _ => spec,
                });
            }
        }
    }
    specs
}

/// Tail, drift and memory of a run at a held rate.
fn held_rate(mut figures: Figures, rate: u64) -> Figures {
    let curve = figures
        .curves
        .iter()
        .find(|c| c.name == "from when due")
        .cloned();
    let us = |p: f64| {
        curve
            .as_ref()
            .and_then(|c| c.at(p))
            .map_or(f64::NAN, |ns| ns as f64 / 1e3)
    };
    let (p50, p99, p999, max) = (us(50.0), us(99.0), us(99.9), us(100.0));
    let ends = |name: &str| {
        let values = figures.series.get(name)?;
        Some((*values.first()?, *values.last()?))
    };
    let drift = ends("p50_us").map_or(f64::NAN, |(a, b)| b / a - 1.0);
    let growth = ends("receiver_rss_mib").map_or(f64::NAN, |(a, b)| b - a);
    let reached = figures.values.get("gb_per_s").copied().unwrap_or(f64::NAN) * 1e9 / rate as f64;
    figures = figures
        .and("p50_us", p50)
        .and("p99_us", p99)
        .and("p999_us", p999)
        .and("max_us", max)
        .and("drift", drift)
        .and("rss_growth_mib", growth)
        .and("of_held_rate", reached);
    // At a held rate these say nothing about how fast it could be.
    figures.values.remove("gb_per_s");
    figures
}

/// `300 MB`.
fn show_rate(rate: u64) -> String {
    match rate {
        r if r >= 1_000_000_000 => format!("{:.2} GB", r as f64 / 1e9),
        r => format!("{:.0} MB", r as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_rate_is_judged_by_its_tail() {
        let mut figures = Figures::of("gb_per_s", 0.3);
        let mut hist = ctp96::obs::hist::empty_hdr();
        (1..=1000).for_each(|n| hist.saturating_record(n * 1000));
        figures
            .curves
            .push(crate::schema::Curve::of("from when due", &hist));
        figures
            .series
            .insert("p50_us".into(), vec![100.0, 50.0, 150.0]);
        let f = held_rate(figures, 300_000_000);
        assert!((f.values["p99_us"] - 990.0).abs() < 10.0);
        assert!((f.values["drift"] - 0.5).abs() < 1e-9);
        assert!((f.values["of_held_rate"] - 1.0).abs() < 1e-9);
        assert!(!f.values.contains_key("gb_per_s") && !f.values.contains_key("rss_growth_mib"));
    }
}
