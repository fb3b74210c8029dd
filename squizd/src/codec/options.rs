//! Codec options and their text form: `int4:g32`, `sqint2:2.5:max`.

use super::{Allocation, IntegerLayout, tca_tbe};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How hard an encoder searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quality {
    /// Much faster, somewhat worse.
    Fast,
    /// The balance that is right for most.
    Default,
    /// The best there is, at any speed.
    Max,
}

/// What the user asked of a codec; what is `None` the codec chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodeOptions {
    /// Group size of the plain integer layout (`g32`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<u16>,
    /// Layout of the integer codecs' scales (`plain`, `compact`, `fine`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<IntegerLayout>,
    /// Profile of TCA-TBE (`tbe3`, `tbe2`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<tca_tbe::Profile>,
    /// Bits per weight to aim at, in thousandths (`2.125`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u16>,
    /// How HYBRID spends its bits (`variance`; by error otherwise).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Search effort (`fast`, `default`, `max`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Level of a general compressor (`z19`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Four levels a weight instead of a trellis (`nf2`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nf2: bool,
}

/// A kind of option, for a codec to say which it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// [`EncodeOptions::group_size`].
    GroupSize,
    /// [`EncodeOptions::layout`].
    Layout,
    /// [`EncodeOptions::profile`].
    Profile,
    /// [`EncodeOptions::rate`].
    Rate,
    /// [`EncodeOptions::allocation`].
    Allocation,
    /// [`EncodeOptions::quality`].
    Quality,
    /// [`EncodeOptions::level`].
    Level,
    /// [`EncodeOptions::nf2`].
    Nf2,
}

impl OptionKind {
    /// How to write it.
    fn syntax(self) -> &'static str {
        match self {
            Self::GroupSize => "a group size such as g32",
            Self::Layout => "a layout: plain, compact, fine",
            Self::Profile => "a profile: tbe3, tbe2",
            Self::Rate => "bits per weight such as 2.125",
            Self::Allocation => "a rule: variance",
            Self::Quality => "a quality: fast, default, max",
            Self::Level => "a zstd level such as z19",
            Self::Nf2 => "nf2 for four plain levels",
        }
    }
}

impl EncodeOptions {
    /// No wishes.
    pub const NONE: Self = Self {
        group_size: None,
        layout: None,
        profile: None,
        rate: None,
        allocation: None,
        quality: None,
        level: None,
        nf2: false,
    };

    /// Reads one option of a codec that takes the kinds `taken`.
    pub fn set(&mut self, text: &str, taken: &[OptionKind]) -> Result<()> {
        let kind = self.set_any(text).filter(|k| taken.contains(k));
        kind.map(|_| ()).ok_or_else(|| {
            let known: Vec<_> = taken.iter().map(|k| k.syntax()).collect();
            let known = if known.is_empty() { "no options".to_owned() } else { known.join(", or ") };
            Error::invalid(format!("unknown option {text:?}; this codec takes {known}"))
        })
    }

    /// The kind of `text` by its form, stored; `None` if it has none.
    fn set_any(&mut self, text: &str) -> Option<OptionKind> {
        let quality = match text {
            "fast" => Some(Quality::Fast),
            "default" => Some(Quality::Default),
            "max" => Some(Quality::Max),
            _ => None,
        };
        if quality.is_some() {
            self.quality = quality;
            return Some(OptionKind::Quality);
        }
        if text == "nf2" {
            self.nf2 = true;
            return Some(OptionKind::Nf2);
        }
        if let Ok(allocation) = text.parse() {
            self.allocation = Some(allocation);
            return Some(OptionKind::Allocation);
        }
        if let Ok(layout) = text.parse() {
            self.layout = Some(layout);
            return Some(OptionKind::Layout);
        }
        if let Ok(profile) = text.parse() {
            self.profile = Some(profile);
            return Some(OptionKind::Profile);
        }
        if let Some(group) = text.strip_prefix('g') {
            self.group_size = Some(group.parse().ok()?);
            return Some(OptionKind::GroupSize);
        }
        if let Some(level) = text.strip_prefix('z') {
            self.level = Some(level.parse().ok()?);
            return Some(OptionKind::Level);
        }
        self.rate = Some(thousandths(text)?);
        Some(OptionKind::Rate)
    }

    /// The options of kinds in `taken` alone.
    #[must_use]
    pub fn only(self, taken: &[OptionKind]) -> Self {
        let has = |kind| taken.contains(&kind);
        Self {
            group_size: self.group_size.filter(|_| has(OptionKind::GroupSize)),
            layout: self.layout.filter(|_| has(OptionKind::Layout)),
            profile: self.profile.filter(|_| has(OptionKind::Profile)),
            rate: self.rate.filter(|_| has(OptionKind::Rate)),
            allocation: self.allocation.filter(|_| has(OptionKind::Allocation)),
            quality: self.quality.filter(|_| has(OptionKind::Quality)),
            level: self.level.filter(|_| has(OptionKind::Level)),
            nf2: self.nf2 && has(OptionKind::Nf2),
        }
    }

    /// Whether the options set are all of kinds in `taken`; the first that is not.
    pub fn foreign(&self, taken: &[OptionKind]) -> Option<OptionKind> {
        let set = [
            (self.group_size.is_some(), OptionKind::GroupSize),
            (self.layout.is_some(), OptionKind::Layout),
            (self.profile.is_some(), OptionKind::Profile),
            (self.rate.is_some(), OptionKind::Rate),
            (self.allocation.is_some(), OptionKind::Allocation),
            (self.quality.is_some(), OptionKind::Quality),
            (self.level.is_some(), OptionKind::Level),
            (self.nf2, OptionKind::Nf2),
        ];
        set.into_iter().find(|(set, kind)| *set && !taken.contains(kind)).map(|(_, kind)| kind)
    }
}

/// A positive decimal with up to three places, in thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || places.len() > 3 || !digits(whole) || !digits(places) {
        return None;
    }
    let thousandths: u32 = format!("{whole}{places:0<3}").parse().ok()?;
    u16::try_from(thousandths).ok().filter(|t| *t > 0)
}

impl fmt::Display for EncodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.profile.map_or(Ok(()), |p| write!(f, ":{p}"))?;
        self.layout.map_or(Ok(()), |l| write!(f, ":{l}"))?;
        self.group_size.map_or(Ok(()), |g| write!(f, ":g{g}"))?;
        if let Some(rate) = self.rate {
            let text = format!("{}.{:03}", rate / 1000, rate % 1000);
            write!(f, ":{}", text.trim_end_matches('0').trim_end_matches('.'))?;
        }
        self.allocation.map_or(Ok(()), |a| write!(f, ":{a}"))?;
        match self.quality {
            None => {}
            Some(Quality::Fast) => f.write_str(":fast")?,
            Some(Quality::Default) => f.write_str(":default")?,
            Some(Quality::Max) => f.write_str(":max")?,
        }
        self.level.map_or(Ok(()), |l| write!(f, ":z{l}"))?;
        f.write_str(if self.nf2 { ":nf2" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OptionKind as K;

    #[test]
    fn options_print_as_they_were_written() {
        let all = [K::GroupSize, K::Layout, K::Profile, K::Allocation, K::Rate, K::Quality, K::Level, K::Nf2];
        for text in [
            "g32", "fine", "compact", "variance", "tbe2", "2.125", "3", "4.5", "0.001", "65.535", "fast",
            "max", "default", "z19", "nf2",
        ] {
            let mut options = EncodeOptions::NONE;
            options.set(text, &all).unwrap();
            assert_eq!(options.to_string(), format!(":{text}"));
        }
        for text in ["", "g", "gx", "2.1255", "-2", "66", "0", "2.x", ".5", "1e3", "z", "best"] {
            assert!(EncodeOptions::default().set(text, &all).is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_the_codec_takes() {
        let mut options = EncodeOptions::NONE;
        let message = options.set("tbe2", &[K::GroupSize]).unwrap_err().to_string();
        assert!(message.contains("takes a group size such as g32"), "{message}");
        let message = options.set("g3", &[]).unwrap_err().to_string();
        assert!(message.contains("takes no options"), "{message}");
        assert_eq!(options.foreign(&[K::Profile]), Some(K::GroupSize));
        let kinds = [K::GroupSize, K::Layout, K::Profile, K::Rate, K::Quality, K::Level, K::Nf2];
        for (text, kind) in ["g32", "fine", "tbe2", "2.5", "max", "z7", "nf2"].iter().zip(kinds) {
            options.set(text, &kinds).unwrap();
            assert_eq!(options.only(&[kind]).to_string(), format!(":{text}"));
        }
        assert_eq!(options.only(&kinds), options);
    }
}
