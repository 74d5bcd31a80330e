//! An explanation for people.

use std::fmt;

use super::{Boots, Explanation, ReplyView};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mac, node, known_by, quirks, stage, request, link, address, reply, ignored, boots } = self;
        match mac {
            Some(mac) => write!(f, "{mac}")?,
            None => f.write_str("a packet")?,
        }
        match node.as_ref().zip(known_by.as_ref()) {
            Some((node, known_by)) => write!(f, " ({node}, known by {known_by})")?,
            None => f.write_str(" (no [[node]])")?,
        }
        if let Some((stage, request)) = stage.as_ref().zip(request.as_ref()) {
            write!(f, " asks as {stage}: {request}")?;
        }
        writeln!(f)?;
        if let Some(quirks) = quirks {
            writeln!(f, "  quirks   {quirks}")?;
        }
        if let Some(link) = link {
            writeln!(f, "  network  {}; {}", link.subnets.join(", "), link.because)?;
        }
        if let Some(address) = address {
            writeln!(f, "  address  {}; {}", address.address, address.because)?;
        }
        if let Some(ignored) = ignored {
            writeln!(f, "  ignored  {}", ignored.replace('\n', "\n           "))?;
        }
        if let Some(reply) = reply {
            write!(f, "{reply}")?;
        }
        if let Some(boots) = boots {
            write!(f, "{boots}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ReplyView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  offer    {}", self.offer.replace('\n', "\n           "))?;
        writeln!(f, "  reply    {} to {}, {} bytes", self.kind, self.to, self.packet.len() / 2)?;
        writeln!(f, "           yiaddr {}, siaddr {}, file '{}'", self.yiaddr, self.siaddr, self.file)?;
        for option in &self.options {
            writeln!(f, "           {:>3} {:<24} {}", option.code, option.name, option.value)?;
        }
        Ok(())
    }
}

impl fmt::Display for Boots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  script   ")?;
        if let Some((image, mode)) = self.image.as_ref().zip(self.mode.as_ref()) {
            write!(f, "{image}, mode {mode}")?;
            if let Some(initramfs) = &self.initramfs {
                write!(f, ", {initramfs}")?;
            }
            write!(f, "; ")?;
        }
        if let Some(kernel) = &self.kernel {
            write!(f, "{kernel}; ")?;
        }
        writeln!(f, "rule: {}", self.rule)?;
        if !self.secrets.is_empty() {
            writeln!(f, "  secrets  {}, once a boot over TLS", self.secrets.join(", "))?;
        }
        match &self.problem {
            Some(problem) => writeln!(f, "  problem  {}", problem.replace('\n', "\n           ")),
            None => Ok(()),
        }
    }
}
