//! One way to move bytes from host to host, as the comparison sees it.

use crate::Result;
use crate::site::Site;
use serde::Serialize;

/// What every contender is asked to do in one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Task {
    /// Payload to move, bytes.
    pub bytes: u64,
    /// Bytes that the application hands over and takes at a time.
    pub chunk: usize,
    /// CPU of the one sending thread.
    pub sender_core: usize,
    /// CPU of the one receiving thread.
    pub receiver_core: usize,
}

/// What one run took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Payload that arrived, bytes.
    pub bytes: u64,
    /// From the first byte handed over to the receiver's word that all have arrived, seconds.
    /// Connecting and the handshake are not counted.
    pub wall_s: f64,
    /// CPU time of the sending process meanwhile, user and system, seconds.
    pub send_cpu_s: f64,
    /// CPU time of the receiving process meanwhile, user and system, seconds.
    pub recv_cpu_s: f64,
}

impl Sample {
    /// Payload throughput, 1e9 bytes per second.
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.wall_s / 1e9
    }

    /// CPU time of both sides per 1e9 bytes of payload, seconds.
    pub fn cpu_s_per_gb(&self) -> f64 {
        (self.send_cpu_s + self.recv_cpu_s) / (self.bytes as f64 / 1e9)
    }
}

/// A row of the comparison.
pub trait Contender {
    /// Name in the table, with what distinguishes it (`tls1.3/ring cubic`).
    fn name(&self) -> String;
    /// True for the row that ratios are given against.
    fn is_reference(&self) -> bool {
        false
    }
    /// Moves the bytes from the sending to the receiving end of `site`.
    ///
    /// # Errors
    /// Anything that kept the payload from arriving in full.
    fn transfer(&self, site: &Site, task: &Task) -> Result<Sample>;
}
