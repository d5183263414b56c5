//! Where frames go: the table of next hops that the watcher keeps, and each core's own copy with
//! ready-made headers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::wire::eth::{Flow, Mac, Template};

/// Most peers' addresses and flows that are followed; further ones go through the kernel.
pub(super) const MAX_PATHS: usize = 1024;

/// How to reach an address without the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    pub(super) vlan: Option<u16>,
    /// Our address towards it.
    pub(super) source: IpAddr,
    /// Longest IP packet.
    pub(super) mtu: usize,
}

/// What the watcher has found out, with a number that changes whenever it does.
#[derive(Debug, Default)]
pub(super) struct Hops {
    generation: AtomicU64,
    table: Mutex<HashMap<IpAddr, Option<Hop>>>,
}

impl Hops {
    /// Sets what is known of an address; says whether that is new.
    pub(super) fn set(&self, ip: IpAddr, hop: Option<Hop>) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let before = table.insert(ip, hop);
        let new = before != Some(hop);
        if new {
            self.generation.fetch_add(1, Ordering::Release);
        }
        new
    }

    /// What is known of an address.
    pub(super) fn get(&self, ip: IpAddr) -> Option<Hop> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&ip).copied().flatten()
    }

    /// Addresses followed, and whether each can be reached.
    pub(super) fn all(&self) -> Vec<(IpAddr, bool)> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(ip, h)| (*ip, h.is_some())).collect()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A way that frames can take past the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct {
    pub(super) template: Template,
    /// Longest UDP payload.
    pub(super) max_len: usize,
}

/// A peer's address and the flow towards it.
type Key = (SocketAddr, u16);

/// Source port of a flow, of a core whose own port is `own`: 0 is that one, the others lie in the
/// dynamic range (RFC 6335, 49152 to 65535). Nobody answers to them.
fn source_port(own: u16, flow: u16) -> u16 {
    match flow {
        0 => own,
        // Cores differ in their own port, so lanes on two of them differ in all their flows.
        n => 0xC000 | own.wrapping_mul(64).wrapping_add(n) & 0x3FFF,
    }
}

/// The paths of one core.
pub(super) struct Paths {
    local_port: u16,
    index: HashMap<Key, u16>,
    paths: Vec<(Key, Option<Direct>)>,
    /// The one used last.
    last: usize,
    seen: u64,
}

impl Paths {
    pub(super) fn new(local_port: u16) -> Paths {
        Paths {
            local_port,
            index: HashMap::with_capacity(MAX_PATHS),
            paths: Vec::with_capacity(MAX_PATHS),
            last: 0,
            seen: 0,
        }
    }

    /// The path of a flow to `to`: its number, and the direct way if there is one. `ask` is called
    /// with an address that is new here.
    #[inline]
    pub(super) fn get(
        &mut self,
        to: &SocketAddr,
        flow: u16,
        hops: &Hops,
        ask: impl FnOnce(IpAddr),
    ) -> Option<(u16, &Direct)> {
        let last = self.paths.get(self.last);
        if last.is_none_or(|((addr, f), _)| *f != flow || addr != to) {
            self.last = self.find((*to, flow), hops, ask)?;
        }
        let direct = self.paths.get(self.last)?.1.as_ref()?;
        Some((self.last as u16, direct))
    }

    #[cold]
    fn find(&mut self, key: Key, hops: &Hops, ask: impl FnOnce(IpAddr)) -> Option<usize> {
        if let Some(&i) = self.index.get(&key) {
            return Some(usize::from(i));
        }
        if self.paths.len() >= MAX_PATHS {
            return None;
        }
        let i = self.paths.len();
        self.paths.push((key, None));
        self.index.insert(key, i as u16);
        ask(key.0.ip());
        // The table may know the address already, from another port of the same host.
        self.reload(hops, hops.generation());
        Some(i)
    }

    /// The direct way of path `number`, if it still has one.
    #[inline]
    pub(super) fn direct(&self, number: u16) -> Option<&Direct> {
        self.paths.get(usize::from(number))?.1.as_ref()
    }

    /// Takes over what the watcher has changed. Never waits: a table that is in use now is read at
    /// the next call.
    #[inline]
    pub(super) fn refresh(&mut self, hops: &Hops) {
        let now = hops.generation();
        if now != self.seen {
            self.reload(hops, now);
        }
    }

    #[cold]
    fn reload(&mut self, hops: &Hops, now: u64) {
        let Ok(table) = hops.table.try_lock() else {
            self.seen = u64::MAX;
            return;
        };
        self.seen = now;
        for ((to, flow), direct) in &mut self.paths {
            let hop = table.get(&to.ip()).copied().flatten();
            *direct = hop.and_then(|h| {
                let template = Template::new(&Flow {
                    src_mac: h.src_mac,
                    dst_mac: h.dst_mac,
                    vlan: h.vlan,
                    src: SocketAddr::new(h.source, source_port(self.local_port, *flow)),
                    dst: *to,
                })?;
                let max_len = h.mtu.checked_sub(template.ip_overhead())?;
                Some(Direct { template, max_len })
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_follows_the_table() {
        let (hops, mut paths) = (Hops::default(), Paths::new(9696));
        let to: SocketAddr = ([10, 0, 0, 2], 9700).into();
        let mut asked = Vec::new();
        assert!(paths.get(&to, 0, &hops, |ip| asked.push(ip)).is_none());
        assert!(paths.get(&to, 0, &hops, |ip| asked.push(ip)).is_none());
        assert_eq!(asked, [to.ip()]);
        let hop = Hop {
            src_mac: [1; 6],
            dst_mac: [2; 6],
            vlan: None,
            source: [10, 0, 0, 1].into(),
            mtu: 1500,
        };
        assert!(hops.set(to.ip(), Some(hop)));
        assert!(!hops.set(to.ip(), Some(hop)));
        paths.refresh(&hops);
        let (n, d) = paths
            .get(&to, 0, &hops, |_| panic!("known"))
            .expect("direct now");
        assert_eq!((n, d.max_len), (0, 1472));
        // A second port of the same host is served from the table.
        let other: SocketAddr = ([10, 0, 0, 2], 9701).into();
        assert!(paths.get(&other, 0, &hops, |_| ()).is_some());
        hops.set(to.ip(), None);
        paths.refresh(&hops);
        assert!(paths.direct(0).is_none() && paths.get(&other, 0, &hops, |_| ()).is_none());
    }

    #[test]
    fn flows_have_ports_of_their_own() {
        let mut ports: Vec<u16> = (0..8)
            .flat_map(|core| (1..=64).map(move |flow| source_port(9696 + core, flow)))
            .collect();
        assert!(ports.iter().all(|&p| p >= 49152));
        assert_eq!(source_port(9696, 0), 9696);
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8 * 64);
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (hops, mut paths) = (Hops::default(), Paths::new(1));
        let mut asked = 0;
        for i in 0..2 * MAX_PATHS as u32 {
            let to = SocketAddr::new(std::net::Ipv4Addr::from(i).into(), 1);
            assert!(paths.get(&to, 0, &hops, |_| asked += 1).is_none());
        }
        assert_eq!((asked, paths.paths.len()), (MAX_PATHS, MAX_PATHS));
    }
}
