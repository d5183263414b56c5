//! Suites over a network: CTP-96 in its variants, beside what users pick today, at the same site in
//! the same rounds.

use super::bed::Bed;
use super::runner::{Figures, Spec};
use super::sites::Sites;
use crate::baseline::{quic, s2n, tcp, tls};
use crate::ctp::{Ctp, Setup};
use crate::load::Load;
use crate::site::Site;
use crate::units::show_bytes;
use crate::{Result, rings};
use ctp96::base::limits::symbol_len_for_mtu;
use std::rc::Rc;

/// TCP and TLS 1.3 as baselines for messages of `len` bytes, one connection, a write a message;
/// `params` are those of the row but for its stack.
fn per_message<'a>(
    bed: Bed,
    site: &'a Rc<Site>,
    credentials: &tls::Credentials,
    params: &[(&str, &str)],
    group: &str,
    len: usize,
) -> [Spec<'a>; 2] {
    let congestion = "cubic".to_owned();
    let tcp = tcp::Tcp {
        congestion: congestion.clone(),
    };
    let tls = tls::Tls {
        congestion,
        credentials: credentials.clone(),
        reference: true,
    };
    let row = |stack: &'static str| {
        let mut row = vec![("stack", stack)];
        row.extend(params);
        row
    };
    [
        Spec::new(&row("tcp"), bed.in_pieces(site, tcp, len))
            .group(group)
            .baseline("tcp"),
        Spec::new(&row("tls1.3"), bed.in_pieces(site, tls, len))
            .group(group)
            .baseline("tls"),
    ]
}

/// CTP-96 with each suite against TCP, TLS 1.3, QUIC and the bare socket.
///
/// # Errors
/// No certificate can be made.
pub fn throughput<'a>(
    bed: Bed,
    sites: &'a Sites,
    memory: &[u32],
    backend: &str,
    suites: &'a [String],
) -> Result<Vec<Spec<'a>>> {
    let mut specs = sites.skipped();
    let (provider, _) = tls::calibrate()?;
    let credentials = tls::Credentials::new(provider)?;
    for &mtu in memory {
        let text = mtu.to_string();
        for suite in suites {
            let params = |stack| {
                [
                    ("over", "memory"),
                    ("mtu", text.as_str()),
                    ("stack", stack),
                    ("suite", suite.as_str()),
                ]
            };
            let group = format!("memory {mtu} {suite}");
            let bare = Spec::new(&params("bare cipher"), bed.bare_cipher(mtu, suite));
            specs.push(bare.group(group.as_str()).baseline("bare cipher"));
            let whole = Spec::new(&params("ctp96"), bed.memory(mtu, suite));
            specs.push(whole.group(group));
        }
    }
    for site in sites.all() {
        let (over, mtu) = (site.name(), site.mtu().to_string());
        let group = format!("{over} {mtu}");
        let spec = |stack: &str, suite: &str| {
            vec![
                ("over".to_owned(), over.to_owned()),
                ("mtu".to_owned(), mtu.clone()),
                ("stack".to_owned(), stack.to_owned()),
                ("suite".to_owned(), suite.to_owned()),
            ]
        };
        let aes = "aes-256-gcm";
        let congestion = "cubic".to_owned();
        let tcp = tcp::Tcp {
            congestion: congestion.clone(),
        };
        let run = bed.contender(site, tcp);
        specs.push(
            Spec::owned(spec("tcp", "none"), run)
                .group(&*group)
                .baseline("tcp"),
        );
        let tls = tls::Tls {
            congestion,
            credentials: credentials.clone(),
            reference: true,
        };
        let run = bed.contender(site, tls);
        specs.push(
            Spec::owned(spec("tls1.3", aes), run)
                .group(&*group)
                .baseline("tls"),
        );
        let quic = quic::Quic {
            credentials: credentials.clone(),
        };
        let run = bed.contender(site, quic);
        specs.push(
            Spec::owned(spec("quic (quinn)", aes), run)
                .group(&*group)
                .baseline("quinn"),
        );
        let s2n = s2n::S2n {
            credentials: credentials.clone(),
        };
        let run = bed.contender(site, s2n);
        specs.push(
            Spec::owned(spec("quic (s2n-quic)", aes), run)
                .group(&*group)
                .baseline("s2n-quic"),
        );
        let run = bed.udp(site);
        specs.push(
            Spec::owned(spec("bare udp", "none"), run)
                .group(&*group)
                .baseline("udp"),
        );
        for suite in suites {
            let row = ctp_row(backend, "fast", suite);
            let mut setup = Setup::new(site, &row, false);
            setup.observe = true;
            let run = bed.ctp(site, setup);
            specs.push(Spec::owned(spec("ctp96", suite), run).group(&*group));
        }
    }
    Ok(specs)
}

/// A row of one backend, level and suite.
pub fn ctp_row(backend: &str, verify: &str, suite: &str) -> Ctp {
    Ctp {
        backend: backend.to_owned(),
        verify: verify.to_owned(),
        suite: suite.to_owned(),
    }
}

/// Streams over lanes.
///
/// # Errors
/// No certificate can be made.
pub fn concurrency<'a>(
    bed: Bed,
    sites: &'a Sites,
    backend: &str,
    streams: &[u32],
    lanes: usize,
    message: usize,
) -> Result<Vec<Spec<'a>>> {
    let mut specs = sites.skipped();
    let credentials = tls::Credentials::new(tls::calibrate()?.0)?;
    for site in sites.all() {
        let len = show_bytes(message as u64);
        let one = [("over", site.name()), ("streams", "1"), ("message", &len)];
        specs.extend(per_message(
            bed,
            site,
            &credentials,
            &one,
            site.name(),
            message,
        ));
        for &n in streams {
            let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
            setup.lanes = lanes.min(n as usize).max(1);
            setup.load = Load::Messages {
                streams: n,
                len: message,
            };
            setup.observe = true;
            let (streams, used) = (n.to_string(), setup.lanes.to_string());
            let params = [
                ("stack", "ctp96"),
                ("over", site.name()),
                ("streams", &streams),
                ("message", &len),
                ("lanes", &used),
            ];
            let spec = Spec::new(&params, bed.ctp(site, setup)).group(site.name());
            specs.push(if n == 1 {
                spec.baseline("1 stream")
            } else {
                spec
            });
        }
    }
    Ok(specs)
}

/// Message sizes.
///
/// # Errors
/// No certificate can be made.
pub fn payload<'a>(
    bed: Bed,
    sites: &'a Sites,
    backend: &str,
    sizes: &[u64],
) -> Result<Vec<Spec<'a>>> {
    let mut specs = sites.skipped();
    let credentials = tls::Credentials::new(tls::calibrate()?.0)?;
    for site in sites.all() {
        for &len in sizes {
            let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
            setup.load = Load::Messages {
                streams: 1,
                len: len as usize,
            };
            setup.observe = true;
            let (bytes, mtu) = (len.to_string(), site.mtu().to_string());
            let group = format!("{} {mtu} {bytes}", site.name());
            let params = [("over", site.name()), ("mtu", &mtu), ("message", &bytes)];
            let len = len as usize;
            let others = per_message(bed, site, &credentials, &params, &group, len);
            specs.extend(others);
            let mut own = vec![("stack", "ctp96")];
            own.extend(params);
            specs.push(Spec::new(&own, bed.ctp(site, setup)).group(group));
        }
    }
    Ok(specs)
}

/// Fast against full verification, end to end.
pub fn verification<'a>(bed: Bed, sites: &'a Sites, backend: &str) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        let mtu = site.mtu().to_string();
        for level in ["fast", "full"] {
            let mut setup = Setup::new(site, &ctp_row(backend, level, "auto"), false);
            setup.observe = true;
            let params = [
                ("what", "end to end"),
                ("over", site.name()),
                ("mtu", &mtu),
                ("level", level),
            ];
            let spec =
                Spec::new(&params, bed.ctp(site, setup)).group(format!("{} {mtu}", site.name()));
            specs.push(if level == "fast" {
                spec.baseline("fast")
            } else {
                spec
            });
        }
    }
    specs
}

/// Backend x queues at every site; the bare socket and bare AF_XDP rings beside them.
pub fn network<'a>(
    bed: Bed,
    sites: &'a Sites,
    crossing: &str,
    backends: &[String],
    queues: &[usize],
) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        let mtu = site.mtu().to_string();
        let group = format!("{} {mtu} {crossing}", site.name());
        let case = |path: &str, queues: &str| {
            vec![
                ("over".to_owned(), site.name().to_owned()),
                ("mtu".to_owned(), mtu.clone()),
                ("crossing".to_owned(), crossing.to_owned()),
                ("path".to_owned(), path.to_owned()),
                ("queues".to_owned(), queues.to_owned()),
            ]
        };
        let run = bed.udp(site);
        specs.push(
            Spec::owned(case("bare udp", "1"), run)
                .group(&*group)
                .baseline("bare udp"),
        );
        if backends.iter().any(|b| b == "af_xdp") && matches!(**site, Site::Veth(_)) {
            let symbol = symbol_len_for_mtu(site.mtu() as usize) as f64;
            let bytes = ((bed.seconds * 150e3) as u64).max(20_000) * symbol as u64;
            let run = move |_: bool| {
                let way = rings::Way {
                    generic: false,
                    cores: [bed.sender_core, bed.receiver_core],
                };
                let (mpps, lost) = rings::bare_round(bytes, way, site)?;
                Ok(Figures::of("gb_per_s", mpps * symbol / 1e3)
                    .and("mframes_per_s", mpps)
                    .and("lost_share", lost))
            };
            specs.push(
                Spec::owned(case("bare af_xdp", "1"), run)
                    .group(&*group)
                    .baseline("bare af_xdp"),
            );
        }
        for backend in backends {
            for &n in queues {
                if backend == "af_xdp" && !matches!(**site, Site::Veth(_)) {
                    continue;
                }
                let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
                setup.lanes = n;
                setup.cores = n;
                // One lane a queue; slots in place use one lane only.
                if n > 1 {
                    setup.load = Load::Messages {
                        streams: n as u32,
                        len: 64 << 10,
                    };
                }
                let params = case(backend, &n.to_string());
                let mut inner = bed.ctp(site, setup);
                let symbol = symbol_len_for_mtu(site.mtu() as usize) as f64;
                let run = move |warming: bool| {
                    if let Site::Veth(lab) = &**site {
                        for host in lab.hosts() {
                            host.set_queues(n as u32)?;
                        }
                    }
                    let figures = inner(warming)?;
                    let gb = figures.values.get("gb_per_s").copied();
                    Ok(figures.and("mframes_per_s", gb.unwrap_or(f64::NAN) * 1e3 / symbol))
                };
                specs.push(Spec::owned(params, run).group(&*group));
            }
        }
    }
    specs
}
