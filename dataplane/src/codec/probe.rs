//! A look at a block that tells incompressible data from the rest, at a cost near zero.

/// Samples taken: 32 places of 8 bytes.
const PLACES: usize = 32;
const RUN: usize = 8;
const SAMPLES: usize = PLACES * RUN;
/// Blocks shorter than this are always taken as compressible: too few bytes to judge.
const MIN_LEN: usize = 2 * SAMPLES;
/// Sum of squares of the 256 byte counts, at and above which a block is worth compressing.
///
/// 256 uniform random bytes give 511 on average with a standard deviation of 23 (the sum less 256
/// is chi-square distributed with 255 degrees of freedom), so 640 is 5.7 deviations up: about one
/// random block in several million is compressed in vain. English text gives around 4,000, machine code
/// and binary tables 1,500 and more, base64 of random bytes 1,276.
const THRESHOLD: u32 = 640;

/// Whether a block's bytes are uneven enough that an entropy or dictionary coder may gain.
///
/// Looks at 256 bytes spread over the whole block, in runs of 8 whose places within their 1/32
/// of the block vary, so that records of a fixed length do not hide between samples. Data
/// whose only redundancy is long repeats of random-looking bytes passes for incompressible.
pub fn looks_compressible(block: &[u8]) -> bool {
    if block.len() < MIN_LEN {
        return true;
    }
    sum_of_squares(block) >= THRESHOLD
}

fn sum_of_squares(block: &[u8]) -> u32 {
    // Four tables break the chain of dependent increments when neighbours are equal.
    let mut counts = [[0u16; 256]; 4];
    let stride = block.len() / PLACES;
    let spread = stride - RUN + 1;
    for i in 0..PLACES {
        // Fibonacci hashing: well spread, and the same for every run of the program.
        let jitter = ((i as u32).wrapping_mul(0x9E37_79B1) >> 16) as usize * spread >> 16;
        let at = i * stride + jitter;
        for (j, &b) in block[at..at + RUN].iter().enumerate() {
            counts[j % 4][b as usize] += 1;
        }
    }
    let [a, b, c, d] = &counts;
    a.iter()
        .zip(b)
        .zip(c)
        .zip(d)
        .map(|(((a, b), c), d)| {
            let n = u32::from(a + b + c + d);
            n * n
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::compress::tests::{json, random, text};

    #[test]
    fn random_data_is_left_alone() {
        let mut misses = 0;
        for seed in 0..2_000 {
            misses += u32::from(looks_compressible(&random(seed, 1_408)));
            misses += u32::from(looks_compressible(&random(seed, 90_048)));
        }
        assert_eq!(misses, 0);
    }

    #[test]
    fn ordinary_data_is_not() {
        for len in [512, 1_344, 4_096, 90_048] {
            assert!(looks_compressible(&text(len)));
            assert!(looks_compressible(&json(len)));
            assert!(looks_compressible(&vec![0; len]));
        }
        let exe = std::fs::read("/proc/self/exe").unwrap();
        let blocks: Vec<_> = exe.chunks_exact(65_536).take(64).collect();
        let seen = blocks.iter().filter(|b| looks_compressible(b)).count();
        assert!(seen * 10 >= blocks.len() * 9, "{seen} of {}", blocks.len());
    }

    #[test]
    fn records_do_not_hide_between_samples() {
        // 64-byte records that begin with 16 random bytes: 3/4 zeros.
        for len in [2_048, 8_192, 65_536] {
            let mut block = random(1, len);
            for record in block.chunks_mut(64) {
                record[16..].fill(0);
            }
            assert!(looks_compressible(&block), "{len}");
        }
    }

    #[test]
    fn short_blocks_are_not_judged() {
        for len in 0..MIN_LEN {
            assert!(looks_compressible(&random(3, len)));
        }
    }
}
