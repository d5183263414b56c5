//! Plots as SVG text: lines, bars and a map of cells.

use crate::suite::table::number;
use std::fmt::Write;

/// Size of a plot in its own units; it scales to the page.
const W: f64 = 640.0;
const H: f64 = 300.0;
/// Room for the axes.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Colours that can be told apart with the usual colour blindnesses (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555",
];

/// One line of a plot.
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Points, x ascending.
    pub points: Vec<(f64, f64)>,
}

/// Escapes text for SVG and HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// How an axis maps values to places.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, log: bool, from: f64, to: f64) -> Axis {
        let usable = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (mut low, mut high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        if !log {
            low = low.min(0.0);
            high = if high > low { high * 1.05 } else { low + 1.0 };
        } else if high <= low {
            (low, high) = (low / 2.0, low * 2.0);
        }
        Axis {
            low,
            high,
            log,
            from,
            to,
        }
    }

    fn at(&self, v: f64) -> f64 {
        let share = if self.log {
            (v.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let mut step = 10_f64.powf(self.low.log10().floor());
            let mut all = Vec::new();
            while step <= self.high * 1.0001 && all.len() < 40 {
                // Between few powers of ten their doubles and fives help.
                let few = self.high / self.low < 1e3;
                for n in if few { &[1.0, 2.0, 5.0][..] } else { &[1.0] } {
                    let tick = step * n;
                    if (self.low * 0.9999..=self.high * 1.0001).contains(&tick) {
                        all.push(tick);
                    }
                }
                step *= 10.0;
            }
            return all;
        }
        let raw = (self.high - self.low) / 5.0;
        let unit = 10_f64.powf(raw.log10().floor());
        let nice = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit);
        let step = nice.into_iter().find(|s| *s >= raw).unwrap_or(raw);
        let count = ((self.high - self.low) / step).floor() as usize;
        (0..=count).map(|i| self.low + i as f64 * step).collect()
    }
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {W} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    )
}

/// A plot of lines. `show_x` writes a value of the x axis at its tick; ticks of a logarithmic axis
/// are at `x_ticks`, or at powers of ten where none are given.
pub fn lines(
    title: &str,
    x_label: &str,
    y_label: &str,
    log_x: bool,
    log_y: bool,
    all: &[Line],
    x_ticks: &[(f64, String)],
) -> String {
    let xs = all.iter().flat_map(|l| l.points.iter().map(|p| p.0));
    let ys = all.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let x = Axis::new(xs, log_x, LEFT, W - RIGHT);
    let y = Axis::new(ys, log_y, H - BOTTOM, TOP);
    let mut s = open(title, H);
    for t in y.ticks() {
        let at = y.at(t);
        let _ = write!(
            s,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            W - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            number(t)
        );
    }
    let own: Vec<(f64, String)> = match x_ticks {
        [] => x.ticks().into_iter().map(|t| (t, number(t))).collect(),
        given => given.to_vec(),
    };
    for (t, label) in own {
        let at = x.at(t);
        let _ = write!(
            s,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            H - BOTTOM,
            H - BOTTOM + 16.0,
            escape(&label)
        );
    }
    for (i, line) in all.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let mut path = String::new();
        for (n, (px, py)) in line.points.iter().enumerate() {
            let (cx, cy) = (x.at(*px), y.at(*py));
            let _ = write!(path, "{}{cx:.1} {cy:.1}", if n == 0 { "M" } else { "L" });
            let _ = write!(
                s,
                "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {} at \
                 {}</title></circle>",
                escape(&line.name),
                number(*py),
                number(*px)
            );
        }
        let _ = write!(
            s,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
    }
    let _ = write!(
        s,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text transform=\"translate(12 \
         {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text></svg>",
        (LEFT + W - RIGHT) / 2.0,
        H - 6.0,
        escape(x_label),
        (TOP + H - BOTTOM) / 2.0,
        escape(y_label)
    );
    s + &legend(all.iter().map(|l| l.name.as_str()))
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut s = String::from("<p class=\"legend\">");
    for (i, name) in names.enumerate() {
        let _ = write!(
            s,
            "<span><i style=\"background:{}\"></i>{}</span> ",
            COLOURS[i % COLOURS.len()],
            escape(name)
        );
    }
    s + "</p>"
}

/// Horizontal bars, each with its value and, where there is one, a mark at what it could be. Boxes
/// and no drawing, so that its text keeps its size on a narrow screen.
pub fn bars(title: &str, unit: &str, all: &[(String, f64, Option<f64>)]) -> String {
    let values = all.iter().flat_map(|b| [Some(b.1), b.2]).flatten();
    let x = Axis::new(values, false, 0.0, 100.0);
    let mut s = format!(
        "<div class=\"bars\" role=\"group\" aria-label=\"{}\">",
        escape(title)
    );
    for (name, value, mark) in all {
        let mark = mark.map_or(String::new(), |m| {
            format!("<b style=\"left:{:.1}%\"></b>", x.at(m))
        });
        let _ = write!(
            s,
            "<span class=\"name\">{}</span><span class=\"bar\"><i style=\"width:{:.1}%\"></i>{mark}\
             </span><span class=\"value\">{} {}</span>",
            escape(name),
            x.at(*value),
            number(*value),
            escape(unit)
        );
    }
    s + "</div>"
}

/// Cells in rows of `columns`, each a share of 0 to 1; a cell without a value stays empty.
pub fn map(title: &str, columns: usize, cells: &[Option<f64>]) -> String {
    let columns = columns.max(1);
    let rows = cells.len().div_ceil(columns);
    let size = W / columns as f64;
    let height = rows as f64 * size;
    let mut s = open(title, height);
    let _ = write!(
        s,
        "<rect class=\"ground\" width=\"{W}\" height=\"{height:.2}\"/>"
    );
    for (i, share) in cells.iter().enumerate() {
        let Some(share) = share else { continue };
        let (x, y) = ((i % columns) as f64 * size, (i / columns) as f64 * size);
        // One path a cell, short, since there may be thousands.
        let _ = write!(
            s,
            "<path d=\"M{x:.2} {y:.2}h{size:.2}v{size:.2}h-{size:.2}z\" fill=\"hsl(205 80% {:.0}%)\"/>",
            92.0 - 67.0 * share.clamp(0.0, 1.0)
        );
    }
    s + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_stand_any_input() {
        let line = |points: &[(f64, f64)]| Line {
            name: "a < b & \"c\"".into(),
            points: points.to_vec(),
        };
        for points in [
            &[][..],
            &[(1.0, 1.0)],
            &[(0.0, 0.0), (0.0, 0.0)],
            &[(f64::NAN, 1.0)],
            &[(1e-9, 1e12), (1e12, 1e-9)],
        ] {
            for (log_x, log_y) in [(false, false), (true, true)] {
                let s = lines("t", "x", "y", log_x, log_y, &[line(points)], &[]);
                assert!(s.starts_with("<svg") && s.contains("</svg>"));
                assert!(s.contains("a &lt; b &amp; &quot;c&quot;"));
            }
        }
        assert!(bars("t", "ns", &[]).ends_with("</div>"));
        let one = bars("t", "ns", &[("x".into(), 5.0, Some(2.5))]);
        assert!(
            one.contains("5.00 ns") && one.contains("width:95.2%"),
            "{one}"
        );
        assert!(one.contains("left:47.6%"), "{one}");
        assert_eq!(
            map("m", 4, &[Some(0.5), None, Some(2.0)])
                .matches("<path")
                .count(),
            2
        );
    }

    #[test]
    fn axes_keep_order_and_bounds() {
        let a = Axis::new([1.0, 1000.0].into_iter(), true, 0.0, 300.0);
        assert!((a.at(1.0) - 0.0).abs() < 1e-9 && (a.at(1000.0) - 300.0).abs() < 1e-9);
        assert!((a.at(10.0) - 100.0).abs() < 1e-6);
        assert_eq!(a.ticks(), vec![1.0, 10.0, 100.0, 1000.0]);
        let narrow = Axis::new([90.0, 600.0].into_iter(), true, 0.0, 1.0);
        assert_eq!(narrow.ticks(), vec![100.0, 200.0, 500.0]);
        let linear = Axis::new([0.0, 10.0].into_iter(), false, 0.0, 1.0);
        assert!(linear.ticks().windows(2).all(|w| w[0] < w[1]));
    }
}
