//! How long a core sleeps while frames wait for the kernel, which does not announce that it has room
//! again.

use std::time::Duration;

/// At most so long where the kernel goes on taking frames.
pub(super) const SHORT: Duration = Duration::from_micros(500);
/// And up to this, twice as long each time, where it takes none: a device queue that stands still
/// should not keep an idle core awake.
const LONG: Duration = Duration::from_millis(16);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// What the kernel had taken at the last sleep, and how long that could be.
    last: Option<(u32, Duration)>,
}

impl Retry {
    /// How long the next sleep may be; `taken` changes with each frame that the kernel takes.
    pub(super) fn next(&mut self, taken: u32) -> Duration {
        let sleep = match self.last {
            Some((before, sleep)) if before == taken => (sleep * 2).min(LONG),
            _ => SHORT,
        };
        self.last = Some((taken, sleep));
        sleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_only_while_nothing_is_taken() {
        let mut r = Retry::default();
        let sleeps = [7, 7, 7, 7, 7, 7, 7, 8, 8, 9].map(|taken| r.next(taken).as_micros());
        assert_eq!(
            sleeps,
            [500, 1000, 2000, 4000, 8000, 16_000, 16_000, 500, 1000, 500]
        );
    }
}
