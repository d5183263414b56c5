//! Slot numbers: 64 bits inside, the low 32 on the wire.

/// Extends the low 32 bits of a slot number to the full number nearest to `expected`.
///
/// Numbers stay 64-bit because 2^32 is not a multiple of 96: a 32-bit counter would jump classes
/// when it wraps. Gives `None` where the nearest number would be negative or overflow.
pub fn extend_slot(low: u32, expected: u64) -> Option<u64> {
    let delta = low.wrapping_sub(expected as u32) as i32;
    expected.checked_add_signed(i64::from(delta))
}

/// Class of a slot: its place in a window of `slots`.
pub const fn class(slot: u64, slots: usize) -> usize {
    (slot % slots as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn extension_recovers_any_number_near_the_expected_one(e in any::<u64>(), d in -2_000_000_000i64..2_000_000_000) {
            if let Some(real) = e.checked_add_signed(d) {
                prop_assert_eq!(extend_slot(real as u32, e), Some(real));
            }
        }
    }

    #[test]
    fn below_zero_is_refused() {
        assert_eq!(extend_slot(u32::MAX, 0), None);
    }
}
