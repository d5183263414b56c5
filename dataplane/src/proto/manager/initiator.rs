//! The initiator's half: OFFER out, COUNTER in, ACCEPT out.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::{
    AcceptRepeat, Live, MAX_FORGED_COUNTERS, Manager, ManagerEvent, Negotiated, Refusal, Role, Side,
};
use crate::base::Nanos;
use crate::base::limits::HEADER_LEN;
use crate::crypto::identity::PublicKey;
use crate::crypto::noise::{self, Initiator};
use crate::wire::handshake::{
    ACCEPT_LEN, Accept, Frame, Kind, MAX_BODY, OFFER_PAYLOAD_MIN, Params, Proposal, pad,
};

impl Manager {
    /// Sends the next OFFER of the attempt towards `key` and sets the time of the one after.
    pub(super) fn send_offer(
        &mut self,
        key: &PublicKey,
        now: Nanos,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) {
        let timestamp = self.next_timestamp(now);
        let Some(interval) = self
            .peers
            .get(key)
            .and_then(|p| p.intent.as_ref())
            .map(|i| i.interval)
        else {
            return;
        };
        let wait = self.jittered(interval);
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let psk = Zeroizing::new(peer.psk());
        let Some(intent) = &mut peer.intent else {
            return;
        };
        intent.due = now.saturating_add(wait.max(1));
        intent.interval = interval
            .saturating_mul(2)
            .min(self.options.timing.max_retry);
        // With the table full the attempt waits for its next turn, and times out in the end.
        if intent.index.is_none() {
            intent.index = self.table.alloc(*key, self.options.entropy.as_mut());
        }
        let Some(session_index) = intent.index else {
            return;
        };
        let proposal = Proposal {
            refusal: 0,
            params: Params {
                session_index,
                timestamp,
                ..self.local
            },
        };
        let mut payload = Vec::with_capacity(OFFER_PAYLOAD_MIN + 4);
        proposal.encode(&mut payload);
        pad(&mut payload, OFFER_PAYLOAD_MIN);
        let mut body = [0; MAX_BODY];
        let made = Initiator::new(&self.identity, key, &psk)
            .and_then(|mut noise| Ok((noise.write_offer(&payload, &mut body)?, noise)));
        let Ok((n, noise)) = made else {
            return;
        };
        intent.noise = Some(noise);
        intent.offered = now;
        intent.forged = 0;
        intent.tries = intent.tries.saturating_add(1);
        let mut frame = Frame::header(Kind::Offer, 0, n).to_vec();
        frame.extend_from_slice(&body[..n]);
        out(intent.addr, &frame);
        self.stats.sent += 1;
    }

    pub(super) fn on_counter(
        &mut self,
        from: SocketAddr,
        frame: &Frame<'_>,
        now: Nanos,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Option<ManagerEvent> {
        let local_index = frame.session;
        let found = self
            .table
            .get(local_index)
            .and_then(|k| Some((k, self.peers.get_mut(&k)?)));
        let Some((key, peer)) = found else {
            self.stats.foreign += 1;
            return None;
        };
        let noise = match &mut peer.intent {
            Some(i) if i.index == Some(local_index) && i.forged < MAX_FORGED_COUNTERS => {
                &mut i.noise
            }
            _ => {
                self.stats.foreign += 1;
                return None;
            }
        };
        let mut payload = [0; MAX_BODY];
        let read = noise
            .as_mut()
            .and_then(|n| n.read_counter(frame.body, &mut payload).ok());
        let Some(n) = read else {
            if let Some(i) = &mut peer.intent {
                i.forged += 1;
            }
            self.stats.auth_failed += 1;
            return None;
        };
        // From here on the peer itself speaks: this attempt ends, one way or the other.
        let noise = noise.take();
        let interval = self.options.timing.first_retry;
        let decided = Proposal::decode(&payload[..n]).map_err(|e| (e.into(), Side::Local));
        let decided = decided.and_then(|p| match Refusal::from_code(p.refusal) {
            Some(r) => Err((r, Side::Remote)),
            None if !p.params.is_valid() || p.params.session_index == 0 => {
                Err((Refusal::Parameters, Side::Local))
            }
            None => match self.options.policy.check(&p.params.attestation) {
                Ok(()) => Ok(p.params),
                Err(r) => Err((r, Side::Local)),
            },
        });
        let Some(Ok(keys)) = noise.map(Initiator::finish) else {
            self.stats.auth_failed += 1;
            return None;
        };
        // A responder that we refuse learns it if we know its index: it then stops waiting.
        let remote_index = match Proposal::decode(&payload[..n]) {
            Ok(p) => p.params.session_index,
            Err(_) => 0,
        };
        let negotiated = match &decided {
            Ok(remote) => Negotiated::of(&self.local, remote),
            Err(_) => Negotiated {
                lanes: 0,
                symbol_len: 0,
                window_slots: 0,
            },
        };
        let accept = Accept {
            refusal: decided.as_ref().err().map_or(0, |(r, _)| r.code()),
            lanes: negotiated.lanes,
            window_slots: negotiated.window_slots,
            symbol_len: negotiated.symbol_len,
            initiator_index: local_index,
            responder_index: remote_index,
            confirm: *keys.confirm(),
        };
        let mut body = [0; ACCEPT_LEN + noise::ACCEPT_OVERHEAD];
        let Ok(n) = keys.seal_accept(&accept.encode(), &mut body) else {
            self.stats.auth_failed += 1;
            return None;
        };
        let mut accept = Vec::with_capacity(HEADER_LEN + n);
        accept.extend_from_slice(&Frame::header(Kind::Accept, remote_index, n));
        accept.extend_from_slice(&body[..n]);
        if remote_index != 0 && !matches!(decided, Err((_, Side::Remote))) {
            out(from, &accept);
            self.stats.sent += 1;
        }
        let remote = match decided {
            Ok(remote) => remote,
            Err((reason, by)) => {
                self.stats.refused += 1;
                return Some(ManagerEvent::Refused {
                    handshake: peer.end_intent(&mut self.table),
                    peer: key,
                    reason,
                    by,
                });
            }
        };
        // The index of the attempt becomes that of the session, so it must not be freed with it.
        let intent = peer.intent.take();
        let rtt = intent
            .as_ref()
            .filter(|i| i.tries == 1)
            .map(|i| now.saturating_sub(i.offered));
        let handshake = intent.map(|i| i.id);
        peer.end_responding(&mut self.table);
        let repeats = self.options.timing.accept_repeats;
        let live = Live {
            index: local_index,
            accept: (repeats > 0).then(|| AcceptRepeat {
                frame: accept,
                addr: from,
                due: now.saturating_add(interval.max(1)),
                interval,
                left: repeats,
            }),
        };
        let replaces = peer.replace_live(&mut self.table, live);
        self.stats.progressed += 1;
        self.stats.established += 1;
        Some(ManagerEvent::Established {
            handshake,
            local_index,
            remote_index,
            peer: key,
            remote_addr: from,
            role: Role::Initiator,
            secrets: keys.into_secrets(),
            remote,
            negotiated,
            replaces,
            rtt,
        })
    }
}
