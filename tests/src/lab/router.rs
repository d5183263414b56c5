//! A lab with a router between its hosts, whose links may carry less than the hosts' own, and which
//! may treat packets badly.
//!
//! ```text
//!   left 10.96.0.1 ctp0 ===== to-a router 10.96.0.3 to-b ===== ctp0 10.96.0.2 right
//! ```

use super::{Host, LINK, Lab, LabConfig, LabError, run_tool};
use crate::loss::compile_bpf;

const SOURCE: &str = include_str!("../../bpf/path.c");
const TO_RIGHT: &str = "to-b";

/// What the router, or the way to it, does to packets from the left host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Marks one ECN-capable packet in so many "congestion experienced".
    Mark(u32),
    /// Clears the ECN bits.
    Bleach,
    /// The left host hears nothing of packets that are too big (ICMP is filtered).
    HideTooBig,
}

impl Lab {
    /// As [`Lab::new`], with a router between the two.
    ///
    /// # Errors
    /// As for [`Lab::new`].
    pub fn with_router(config: &LabConfig) -> Result<Self, LabError> {
        let mut lab = Self::new(config)?;
        let name = lab.left.name().trim_end_matches('a').to_owned() + "w";
        let router = Host::new(name, 3)?;
        lab.left.ip(&["link", "del", LINK])?;
        let mtu = config.mtu.to_string();
        let v4 = format!("{}/32", router.v4());
        let v6 = format!("{}/128", router.v6());
        for (host, port) in [(&lab.left, "to-a"), (&lab.right, TO_RIGHT)] {
            let pair = [
                "link", "add", port, "mtu", &mtu, "type", "veth", "peer", "name", LINK, "netns",
            ];
            router.ip(&[&pair[..], &[host.name()]].concat())?;
            host.prepare(config)?;
            router.ip(&["link", "set", port, "up"])?;
            host.ip(&["link", "set", LINK, "up"])?;
        }
        for (host, port) in [(&lab.left, "to-a"), (&lab.right, TO_RIGHT)] {
            router.ip(&["addr", "add", &v4, "dev", port])?;
            router.ip(&["-6", "addr", "add", &v6, "dev", port, "nodad"])?;
            let own = [format!("{}/32", host.v4()), format!("{}/128", host.v6())];
            host.ip(&["addr", "add", &own[0], "dev", LINK])?;
            host.ip(&["-6", "addr", "add", &own[1], "dev", LINK, "nodad"])?;
            router.ip(&["route", "add", &own[0], "dev", port])?;
            router.ip(&["-6", "route", "add", &own[1], "dev", port])?;
        }
        for (host, peer) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
            let (via4, via6) = (router.v4().to_string(), router.v6().to_string());
            let (to4, to6) = (peer.v4().to_string(), peer.v6().to_string());
            host.ip(&["route", "add", &via4, "dev", LINK])?;
            host.ip(&["route", "add", &to4, "via", &via4, "dev", LINK])?;
            host.ip(&["-6", "route", "add", &via6, "dev", LINK])?;
            host.ip(&["-6", "route", "add", &to6, "via", &via6, "dev", LINK])?;
        }
        let forward = router.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?;
        forward.map_err(|e| LabError::new(format!("forwarding: {e}")))?;
        lab.wire = Some(router);
        Ok(lab)
    }

    fn router(&self) -> Result<&Host, LabError> {
        self.wire
            .as_ref()
            .ok_or_else(|| LabError::new("this lab has no router"))
    }

    /// Sets what the router's link to the right host carries, bytes of IP packet. What is longer the
    /// router drops, and says so to the left host by ICMP.
    ///
    /// # Errors
    /// The command that failed and what it said.
    pub fn set_path_mtu(&self, mtu: u32) -> Result<(), LabError> {
        let mtu = mtu.to_string();
        self.router()?
            .ip(&["link", "set", TO_RIGHT, "mtu", &mtu])
            .map(drop)
    }

    /// Has packets treated like that from now on; one treatment at a time.
    ///
    /// # Errors
    /// The program does not compile or attach.
    pub fn treat(&self, treatment: Treatment) -> Result<(), LabError> {
        let (host, dev, stem, flags) = match treatment {
            Treatment::Mark(n) => {
                let flags = vec!["-DMODE=1".to_owned(), format!("-DEVERY={}u", n.max(1))];
                (self.router()?, "to-a", format!("mark-{n}"), flags)
            }
            Treatment::Bleach => {
                let flags = vec!["-DMODE=2".to_owned()];
                (self.router()?, "to-a", "bleach".to_owned(), flags)
            }
            Treatment::HideTooBig => {
                let flags = vec!["-DMODE=3".to_owned()];
                (&self.left, LINK, "hide".to_owned(), flags)
            }
        };
        let object = compile_bpf(&stem, SOURCE, &flags)?;
        let object = object.to_string_lossy().into_owned();
        let tc = |args: &[&str]| run_tool(host.command("tc").args(args)).map(drop);
        tc(&["qdisc", "add", "dev", dev, "clsact"])?;
        let filter = ["filter", "add", "dev", dev, "ingress", "bpf"];
        let program = ["direct-action", "object-file", &object, "section", "tc"];
        tc(&[&filter[..], &program[..]].concat())
    }
}
