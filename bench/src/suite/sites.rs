//! The sites of a sweep, opened once for all of its cases.

use super::runner::{Refusal, Spec};
use crate::Result;
use crate::site::Site;
use ::tests::require::{Requirement, first_missing};
use std::rc::Rc;

/// What a site needs that this host lacks.
fn lacking(over: &str, per_frame: bool) -> Option<String> {
    let mut needs = Vec::new();
    if over == "veth" {
        needs.push(Requirement::Netns);
        if per_frame {
            needs.push(Requirement::Ethtool);
        }
    }
    first_missing(&needs)
}

/// A case that only says why it does not run.
pub fn skip<'a>(params: &[(&str, &str)], why: &str) -> Spec<'a> {
    let why = why.to_owned();
    Spec::new(params, move |_| Err(Refusal::Skipped(why.clone())))
}

/// The sites of a sweep; they live as long as its cases run.
pub struct Sites(Vec<(String, Rc<Site>)>, Vec<(String, String)>);

impl Sites {
    /// Opens every combination of `over` and `mtus`.
    ///
    /// # Errors
    /// A site that could be made here cannot be, or its name is none.
    pub fn open(over: &[String], mtus: &[u32], per_frame: bool) -> Result<Sites> {
        let (mut open, mut missing) = (Vec::new(), Vec::new());
        for name in over.iter().filter(|n| *n != "memory") {
            if let Some(why) = lacking(name, per_frame) {
                missing.push((name.clone(), why));
                continue;
            }
            for &mtu in mtus {
                let site = match name.as_str() {
                    "veth" => Site::veth(mtu, per_frame)?,
                    "loopback" => Site::Loopback { mtu },
                    other => match other.strip_prefix("host:") {
                        Some(host) => Site::remote(host, mtu)?,
                        None => {
                            let known = "memory, loopback, veth, or host:NAME";
                            return Err(format!("`{other}` is no site; use {known}").into());
                        }
                    },
                };
                open.push((name.clone(), Rc::new(site)));
            }
        }
        Ok(Sites(open, missing))
    }

    /// Every site that is open.
    pub fn all(&self) -> impl Iterator<Item = &Rc<Site>> {
        self.0.iter().map(|(_, site)| site)
    }

    /// Cases for those that this host cannot have.
    pub fn skipped<'a>(&self) -> Vec<Spec<'a>> {
        let spec = |(name, why): &(String, String)| skip(&[("over", name)], why);
        self.1.iter().map(spec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_checked() {
        assert!(Sites::open(&["tunnel".to_owned()], &[1500], false).is_err());
        let loopback = Sites::open(
            &["memory".to_owned(), "loopback".to_owned()],
            &[1500, 9000],
            false,
        );
        assert_eq!(loopback.unwrap().all().count(), 2);
    }
}
