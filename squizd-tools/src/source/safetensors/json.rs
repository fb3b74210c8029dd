//! JSON objects whose keys may not repeat. Serde's maps keep the last of two
//! equal keys, so that two readers can see two different models in one file.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use squizd_spec::Short;
use std::{collections::BTreeMap, fmt, marker::PhantomData};

use super::limits;

/// An object with distinct keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Distinct<V>(pub(super) BTreeMap<String, V>);

struct DistinctVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for DistinctVisitor<V> {
    type Value = Distinct<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if all.contains_key(&key) {
                return Err(A::Error::custom(format_args!("a second key {:?}", Short(&key))));
            }
            let value = map.next_value()?;
            all.insert(key, value);
            if all.len() > limits::TENSORS {
                return Err(A::Error::custom(format_args!("more than {} keys", limits::TENSORS)));
            }
        }
        Ok(Distinct(all))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Distinct<V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(DistinctVisitor(PhantomData))
    }
}

/// A tensor's shape, at most [`limits::RANK`] dimensions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape(pub(super) Vec<u64>);

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {} non-negative integers", limits::RANK)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == limits::RANK {
                return Err(A::Error::invalid_length(limits::RANK + 1, &self));
            }
            dims.push(dim);
        }
        Ok(Shape(dims))
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(ShapeVisitor)
    }
}

/// One tensor as the header describes it. Derived, so that a repeated or
/// unknown field is an error too.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    pub(super) dtype: String,
    pub(super) shape: Shape,
    pub(super) data_offsets: [u64; 2],
}

/// A header: `__metadata__`, and all tensors by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: BTreeMap<String, Described>,
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = None;
        let mut tensors = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let known = if key == "__metadata__" { metadata.is_some() } else { tensors.contains_key(&key) };
            if known {
                return Err(A::Error::custom(format_args!("a second key {:?}", Short(&key))));
            }
            if key == "__metadata__" {
                metadata = Some(map.next_value::<Distinct<String>>()?.0);
            } else {
                tensors.insert(key, map.next_value()?);
                if tensors.len() > limits::TENSORS {
                    return Err(A::Error::custom(format_args!("more than {} tensors", limits::TENSORS)));
                }
            }
        }
        Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(HeaderVisitor)
    }
}

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Index {
    #[serde(default, rename = "metadata", deserialize_with = "ignored")]
    _metadata: (),
    pub(super) weight_map: Distinct<String>,
}

fn ignored<'de, D: Deserializer<'de>>(d: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(d).map(drop)
}
