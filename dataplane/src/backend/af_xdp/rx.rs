//! The receiving half of a socket: which chunks the kernel has, which are lent out as bursts.

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::ring::Producer;
use crate::backend::frame::{Burst, Region, next_owner};
use crate::base::limits::{HEADER_LEN, MAX_FRAME_LEN, MAX_MTU};
use crate::mem::ArenaError;
use crate::wire::eth::{ETH_LEN, IPV4_LEN, IPV6_LEN, MAX_VLAN_TAGS, UDP_LEN, VLAN_LEN};

/// Longest frame that is put together from several chunks.
const MAX_GATHERED: usize = MAX_MTU + ETH_LEN + MAX_VLAN_TAGS * VLAN_LEN;
/// Bytes between two bounce frames.
const BOUNCE_STRIDE: usize = 12 << 10;
/// Bounce frames; a core holds at most one batch of 64 at once.
const BOUNCE_FRAMES: u16 = 128;

/// Where a frame should start so that the payload behind the CTP-96 header is 64-byte aligned.
pub(super) fn headroom(v6: bool) -> usize {
    let ip = if v6 { IPV6_LEN } else { IPV4_LEN };
    let before = ETH_LEN + ip + UDP_LEN + HEADER_LEN;
    before.next_multiple_of(64) - before
}

/// What a descriptor led to.
pub(super) enum Arrival {
    /// A whole frame lies in this place.
    Frame(Place),
    /// Not yet a whole frame.
    More,
    /// A frame that was longer than any that can be for us.
    TooLong,
    /// No bounce frame was free, so a frame is lost.
    NoBuffer,
    /// The kernel named a chunk that it cannot have.
    Bogus,
}

/// Where a received frame lies; it must be lent or put back.
#[derive(Clone, Copy)]
pub(super) struct Place {
    ptr: NonNull<u8>,
    /// Bytes of the frame.
    pub(super) len: usize,
    index: u16,
    bounced: bool,
}

enum Partial {
    None,
    /// Bytes so far in this bounce frame.
    Gathering(u16, usize),
    Skipping,
}

/// One receive ring with its fill ring, of those that share the chunks.
struct Source {
    partial: Partial,
    /// Chunks that the kernel has for it.
    given: u32,
}

/// Receive chunks and bounce frames.
pub(super) struct RxSide {
    region: Arc<Region>,
    chunk: usize,
    chunks: u16,
    sources: Vec<Source>,
    /// Chunks that the kernel may have for one source, so that no other goes without.
    share: u32,
    /// Chunks that neither the kernel has nor anybody else; last in, first out.
    free: Vec<u16>,
    lent: usize,
    owner: u32,
    bounce: Arc<Region>,
    bounce_at: usize,
    bounce_free: Vec<u16>,
    bounce_owner: u32,
}

impl RxSide {
    /// Takes the first `chunks` chunks of `region` for `sources` rings, 1 or more.
    pub(super) fn new(
        region: Arc<Region>,
        (chunk, chunks): (usize, u16),
        sources: usize,
        v6: bool,
    ) -> Result<RxSide, ArenaError> {
        let source = || Source {
            partial: Partial::None,
            given: 0,
        };
        Ok(RxSide {
            region,
            chunk,
            chunks,
            sources: (0..sources.max(1)).map(|_| source()).collect(),
            share: u32::from(chunks) / sources.max(1) as u32,
            free: (0..chunks).rev().collect(),
            lent: 0,
            owner: next_owner(),
            bounce: Region::new(usize::from(BOUNCE_FRAMES) * BOUNCE_STRIDE)?,
            bounce_at: headroom(v6),
            bounce_free: (0..BOUNCE_FRAMES).rev().collect(),
            bounce_owner: next_owner(),
        })
    }

    /// Bursts that are out.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// Gives the kernel what is free for `source`, whose fill ring this is.
    pub(super) fn refill(&mut self, source: usize, fill: &mut Producer<u64>) {
        let Some(s) = self.sources.get_mut(source) else {
            return;
        };
        let before = s.given;
        while s.given < self.share
            && let Some(&index) = self.free.last()
        {
            if !fill.push(u64::from(index) * self.chunk as u64) {
                break;
            }
            self.free.pop();
            s.given += 1;
        }
        if s.given > before {
            fill.publish();
        }
    }

    /// Takes a descriptor from the receive ring of `source`: its chunk is ours from now on.
    pub(super) fn take(&mut self, source: usize, desc: &libc::xdp_desc) -> Arrival {
        let index = desc.addr / self.chunk as u64;
        let (len, offset) = (desc.len as usize, desc.addr as usize % self.chunk);
        let Some(s) = self.sources.get_mut(source) else {
            return Arrival::Bogus;
        };
        s.given = s.given.saturating_sub(1);
        if index >= u64::from(self.chunks) || offset + len > self.chunk {
            return Arrival::Bogus;
        }
        let index = index as u16;
        let ptr = self.region.at(desc.addr as usize, len);
        let more = desc.options & libc::XDP_PKT_CONTD != 0;
        let (bounce, before) = match s.partial {
            Partial::None if !more => {
                return Arrival::Frame(Place {
                    ptr,
                    len,
                    index,
                    bounced: false,
                });
            }
            Partial::None => match self.bounce_free.pop() {
                Some(bounce) => (bounce, 0),
                None => {
                    self.free.push(index);
                    s.partial = Partial::Skipping;
                    return Arrival::NoBuffer;
                }
            },
            Partial::Gathering(bounce, before) => (bounce, before),
            Partial::Skipping => {
                self.free.push(index);
                if !more {
                    s.partial = Partial::None;
                }
                return Arrival::More;
            }
        };
        let total = before + len;
        if total > MAX_GATHERED {
            self.free.push(index);
            self.bounce_free.push(bounce);
            s.partial = if more {
                Partial::Skipping
            } else {
                Partial::None
            };
            return Arrival::TooLong;
        }
        let to = bounce_ptr(&self.bounce, self.bounce_at, bounce, before, len);
        // SAFETY: both ranges were checked and lie in different mappings; the chunk came from the
        // receive ring and the bounce frame off its free list, so nobody else uses either.
        unsafe { std::ptr::copy_nonoverlapping(ptr.as_ptr(), to.as_ptr(), len) };
        self.free.push(index);
        if more {
            s.partial = Partial::Gathering(bounce, total);
            return Arrival::More;
        }
        s.partial = Partial::None;
        Arrival::Frame(Place {
            ptr: bounce_ptr(&self.bounce, self.bounce_at, bounce, 0, total),
            len: total,
            index: bounce,
            bounced: true,
        })
    }

    /// The bytes of a frame that was just taken.
    pub(super) fn bytes(&self, place: &Place) -> &[u8] {
        // SAFETY: `take` checked the range; the mapping is initialised, and the frame is neither
        // lent nor put back yet, so nobody writes it.
        unsafe { std::slice::from_raw_parts(place.ptr.as_ptr(), place.len) }
    }

    /// Lends `len` bytes at `at` of a frame.
    pub(super) fn lend(
        &mut self,
        place: Place,
        (at, len): (usize, usize),
        from: SocketAddr,
        ecn: u8,
    ) -> Burst {
        assert!(at + len <= place.len && len > 0);
        self.lent += 1;
        let owner = if place.bounced {
            self.bounce_owner
        } else {
            self.owner
        };
        // SAFETY: the range lies in the frame, which is initialised; its chunk or bounce frame is
        // on no free list and not in the fill ring until `reclaim`, and `Drop` keeps the mappings
        // while a burst is out.
        unsafe {
            let ptr = place.ptr.add(at);
            Burst::new(ptr, (len, len), from, ecn, place.index, owner)
        }
    }

    /// Puts back a frame that is not lent.
    pub(super) fn put(&mut self, place: Place) {
        if place.bounced {
            self.bounce_free.push(place.index);
        } else {
            self.free.push(place.index);
        }
    }

    /// A bounce frame filled with `payload` from elsewhere.
    pub(super) fn adopt(&mut self, payload: &[u8]) -> Option<Place> {
        if payload.is_empty() || payload.len() > MAX_FRAME_LEN {
            return None;
        }
        let index = self.bounce_free.pop()?;
        let ptr = bounce_ptr(&self.bounce, self.bounce_at, index, 0, payload.len());
        // SAFETY: the range was checked; the bounce frame came off its free list.
        unsafe {
            std::ptr::copy_nonoverlapping(payload.as_ptr(), ptr.as_ptr(), payload.len());
        }
        Some(Place {
            ptr,
            len: payload.len(),
            index,
            bounced: true,
        })
    }

    /// Whether `burst` was lent here.
    pub(super) fn owns(&self, burst: &Burst) -> bool {
        burst.owner == self.owner || burst.owner == self.bounce_owner
    }

    /// Takes back a burst that was lent here.
    pub(super) fn reclaim(&mut self, burst: Burst) {
        let (owner, index) = (burst.owner, burst.index);
        std::mem::forget(burst);
        self.lent -= 1;
        if owner == self.owner {
            self.free.push(index);
        } else {
            self.bounce_free.push(index);
        }
    }
}

/// Where byte `at` of bounce frame `index` lies, whose first byte is at `head` of its place.
fn bounce_ptr(region: &Region, head: usize, index: u16, at: usize, len: usize) -> NonNull<u8> {
    assert!(head + at + len <= BOUNCE_STRIDE);
    region.at(usize::from(index) * BOUNCE_STRIDE + head + at, len)
}

impl Drop for RxSide {
    fn drop(&mut self) {
        if self.lent > 0 {
            self.region.leak();
            self.bounce.leak();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side() -> RxSide {
        let region = Region::new(8 * 2048).expect("map");
        RxSide::new(region, (2048, 8), 1, false).expect("map")
    }

    fn desc(addr: u64, len: u32, more: bool) -> libc::xdp_desc {
        let options = if more { libc::XDP_PKT_CONTD } else { 0 };
        libc::xdp_desc { addr, len, options }
    }

    #[test]
    fn payloads_are_aligned_for_both_families() {
        // 14 + 20 + 8 + 24 and 14 + 40 + 8 + 24.
        assert_eq!((headroom(false) + 66) % 64, 0);
        assert_eq!((headroom(true) + 86) % 64, 0);
    }

    #[test]
    fn chunks_are_gathered_in_order() {
        let mut s = side();
        s.free.clear();
        for (i, n) in [(3u64, 1000u32), (1, 2048), (5, 10)] {
            let p = s.region.at(i as usize * 2048, n as usize);
            // SAFETY: inside the mapping, which nobody else uses.
            unsafe { std::ptr::write_bytes(p.as_ptr(), i as u8, n as usize) };
        }
        assert!(matches!(
            s.take(0, &desc(3 * 2048, 1000, true)),
            Arrival::More
        ));
        assert!(matches!(s.take(0, &desc(2048, 2048, true)), Arrival::More));
        let Arrival::Frame(place) = s.take(0, &desc(5 * 2048, 10, false)) else {
            panic!("the frame is whole");
        };
        let want = [vec![3; 1000], vec![1; 2048], vec![5; 10]].concat();
        assert_eq!(s.bytes(&place), want);
        assert_eq!(s.free, [3, 1, 5]);
        let from = ([10, 0, 0, 1], 1).into();
        let burst = s.lend(place, (42, 100), from, 2);
        assert_eq!((burst.total_len(), burst.ecn(), s.lent()), (100, 2, 1));
        s.reclaim(burst);
        assert_eq!(
            (s.lent(), s.bounce_free.len()),
            (0, usize::from(BOUNCE_FRAMES))
        );
    }

    #[test]
    fn what_cannot_be_is_refused_and_nothing_leaks() {
        let mut s = side();
        s.free.clear();
        assert!(matches!(
            s.take(0, &desc(8 * 2048, 10, false)),
            Arrival::Bogus
        ));
        assert!(matches!(s.take(0, &desc(2000, 100, false)), Arrival::Bogus));
        for i in 0..5 {
            let last = i == 4;
            let got = s.take(0, &desc(i * 2048, 2048, true));
            assert!(matches!(got, Arrival::TooLong) == last, "{i}");
        }
        // The rest of the monster is skipped, and the next frame is whole again.
        assert!(matches!(
            s.take(0, &desc(5 * 2048, 9, false)),
            Arrival::More
        ));
        assert!(matches!(
            s.take(0, &desc(6 * 2048, 9, false)),
            Arrival::Frame(_)
        ));
        assert_eq!(s.free.len(), 6);
        assert_eq!(s.bounce_free.len(), usize::from(BOUNCE_FRAMES));
        s.bounce_free.clear();
        assert!(matches!(s.take(0, &desc(0, 9, true)), Arrival::NoBuffer));
        assert!(matches!(s.take(0, &desc(2048, 9, false)), Arrival::More));
        assert!(matches!(s.take(0, &desc(0, 9, false)), Arrival::Frame(_)));
    }
}
