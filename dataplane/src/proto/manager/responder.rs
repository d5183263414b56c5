//! The responder's half: OFFER in, COUNTER out, ACCEPT in.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::{
    Live, Manager, ManagerEvent, Negotiated, Refusal, Responding, Role, SIMULTANEOUS_TRIES, Side,
};
use crate::base::Nanos;
use crate::base::limits::HEADER_LEN;
use crate::crypto::noise::{COUNTER_OVERHEAD, OFFER_OVERHEAD, Responder};
use crate::wire::handshake::{
    Accept, Frame, Kind, MAX_BODY, OFFER_PAYLOAD_MIN, PARAMS_LEN, Params, Proposal, timestamp_of,
};

const OFFER_BODY_MIN: usize = OFFER_OVERHEAD + OFFER_PAYLOAD_MIN;
const COUNTER_BODY: usize = COUNTER_OVERHEAD + PARAMS_LEN;
// No reply is larger than its request.
const _: () = assert!(COUNTER_BODY <= OFFER_BODY_MIN);

impl Manager {
    pub(super) fn on_offer(
        &mut self,
        from: SocketAddr,
        frame: &Frame<'_>,
        now: Nanos,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Option<ManagerEvent> {
        if frame.body.len() < OFFER_BODY_MIN {
            self.stats.malformed += 1;
            return None;
        }
        if !self.rate.admit(from.ip(), now) {
            self.stats.rate_limited += 1;
            return None;
        }
        let mut payload = [0; MAX_BODY];
        let read = Responder::read_offer(&self.identity, frame.body, &mut payload);
        let Ok((mut noise, key, n)) = read else {
            self.stats.auth_failed += 1;
            return None;
        };
        let payload = &payload[..n];
        let timestamp = self.next_timestamp(now);
        let Some(peer) = self.peers.get_mut(&key) else {
            self.stats.unknown_peer += 1;
            return None;
        };
        match timestamp_of(payload) {
            Some(t) if peer.last_offer.is_none_or(|last| t > last) => peer.last_offer = Some(t),
            Some(_) => {
                self.stats.replayed += 1;
                return None;
            }
            None => {
                self.stats.malformed += 1;
                return None;
            }
        }

        let decided = Proposal::decode(payload)
            .map_err(Refusal::from)
            .and_then(|p| {
                if p.refusal != 0 || !p.params.is_valid() || p.params.session_index == 0 {
                    return Err(Refusal::Parameters);
                }
                self.options.policy.check(&p.params.attestation)?;
                Ok(p.params)
            });
        let ours_wins = self.identity.public() < key
            && peer
                .intent
                .as_ref()
                .is_some_and(|i| i.noise.is_some() && i.tries <= SIMULTANEOUS_TRIES);
        if decided.is_ok() && ours_wins {
            self.stats.ignored += 1;
            return None;
        }
        // An OFFER that is refused leaves a handshake that is under way alone.
        let decided = decided.and_then(|remote| {
            peer.end_responding(&mut self.table);
            let index = self.table.alloc(key, self.options.entropy.as_mut());
            Ok((remote, index.ok_or(Refusal::Busy)?))
        });

        let proposal = Proposal {
            refusal: decided.as_ref().err().map_or(0, |r| r.code()),
            params: Params {
                session_index: decided.as_ref().map_or(0, |(_, index)| *index),
                timestamp,
                ..self.local
            },
        };
        let mut text = Vec::with_capacity(PARAMS_LEN);
        proposal.encode(&mut text);
        let psk = Zeroizing::new(peer.psk());
        let mut body = [0; COUNTER_BODY];
        let made = noise
            .write_counter(&psk, &text, &mut body)
            .and_then(|n| Ok((n, noise.finish()?)));
        let Ok((n, keys)) = made else {
            self.table.free(decided.ok().map(|(_, index)| index));
            self.stats.auth_failed += 1;
            return None;
        };
        // Where the OFFER could not be decoded the initiator's index is still at its fixed place;
        // without one there is nobody to address.
        let to = payload
            .get(8..12)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u32::from_le_bytes(*b));
        let mut counter = [0; HEADER_LEN + COUNTER_BODY];
        counter[..HEADER_LEN].copy_from_slice(&Frame::header(Kind::Counter, to, n));
        counter[HEADER_LEN..HEADER_LEN + n].copy_from_slice(&body[..n]);
        out(from, &counter[..HEADER_LEN + n]);
        self.stats.sent += 1;

        match decided {
            Ok((remote, index)) => {
                let expires = now.saturating_add(self.options.timing.accept_wait);
                peer.suspend_intent(&mut self.table, expires);
                peer.responding = Some(Responding {
                    index,
                    keys,
                    remote,
                    negotiated: Negotiated::of(&self.local, &remote),
                    countered: now,
                    expires,
                });
                self.stats.progressed += 1;
                None
            }
            Err(reason) => {
                self.stats.refused += 1;
                Some(ManagerEvent::Refused {
                    handshake: None,
                    peer: key,
                    reason,
                    by: Side::Local,
                })
            }
        }
    }

    pub(super) fn on_accept(
        &mut self,
        from: SocketAddr,
        frame: &Frame<'_>,
        now: Nanos,
    ) -> Option<ManagerEvent> {
        let index = frame.session;
        let found = self
            .table
            .get(index)
            .and_then(|k| Some((k, self.peers.get_mut(&k)?)));
        let Some((key, peer)) = found else {
            self.stats.foreign += 1;
            return None;
        };
        let Some(pending) = peer.responding.as_ref().filter(|r| r.index == index) else {
            self.stats.foreign += 1;
            return None;
        };
        let mut payload = [0; MAX_BODY];
        let Ok(n) = pending.keys.open_accept(frame.body, &mut payload) else {
            self.stats.auth_failed += 1;
            return None;
        };
        // The peer's own words now: whatever they say, this handshake ends here.
        let pending = peer.responding.take()?;
        let outcome = match Accept::decode(&payload[..n]) {
            Err(e) => Err((e.into(), Side::Local)),
            // Compared in the open: the message is authentic already, so nobody else can probe it.
            Ok(a)
                if a.confirm != *pending.keys.confirm()
                    || a.responder_index != index
                    || a.initiator_index != pending.remote.session_index =>
            {
                Err((Refusal::Parameters, Side::Local))
            }
            Ok(a) => match Refusal::from_code(a.refusal) {
                Some(r) => Err((r, Side::Remote)),
                None => {
                    let theirs = Negotiated {
                        lanes: a.lanes,
                        symbol_len: a.symbol_len,
                        window_slots: a.window_slots,
                    };
                    if theirs == pending.negotiated {
                        Ok(())
                    } else {
                        Err((Refusal::Parameters, Side::Local))
                    }
                }
            },
        };
        if let Err((reason, by)) = outcome {
            self.table.free(Some(index));
            self.stats.refused += 1;
            return Some(ManagerEvent::Refused {
                handshake: None,
                peer: key,
                reason,
                by,
            });
        }
        let handshake = peer.end_intent(&mut self.table);
        let live = Live {
            index,
            accept: None,
        };
        let replaces = peer.replace_live(&mut self.table, live);
        self.stats.progressed += 1;
        self.stats.established += 1;
        Some(ManagerEvent::Established {
            handshake,
            local_index: index,
            remote_index: pending.remote.session_index,
            peer: key,
            remote_addr: from,
            role: Role::Responder,
            secrets: pending.keys.into_secrets(),
            remote: pending.remote,
            negotiated: pending.negotiated,
            replaces,
            rtt: Some(now.saturating_sub(pending.countered)),
        })
    }
}
