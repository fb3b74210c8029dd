//! Tensor names as templates: numbers become `{l}` (layer) and `{e}` (expert).

/// A name split into its template and its numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TensorName {
    /// `layers.{l}.mlp.experts.{e}.up_proj.weight`.
    pub template: String,
    /// First number.
    pub layer: Option<u32>,
    /// Second number.
    pub expert: Option<u32>,
}

impl TensorName {
    /// Splits `name` at its dots; a segment is a number only in canonical
    /// decimal, so that `layers.03` and `layers.3` cannot mean the same.
    pub(super) fn parse(name: &str) -> Self {
        let mut parsed = Self { template: String::with_capacity(name.len()), layer: None, expert: None };
        for (i, segment) in name.split('.').enumerate() {
            if i > 0 {
                parsed.template.push('.');
            }
            match number(segment) {
                Some(n) if parsed.layer.is_none() => {
                    parsed.layer = Some(n);
                    parsed.template.push_str("{l}");
                }
                Some(n) if parsed.expert.is_none() => {
                    parsed.expert = Some(n);
                    parsed.template.push_str("{e}");
                }
                _ => parsed.template.push_str(segment),
            }
        }
        parsed
    }
}

fn number(segment: &str) -> Option<u32> {
    let canonical = segment == "0" || !segment.starts_with('0');
    let digits = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
    if canonical && digits { segment.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_placeholders() {
        let n = TensorName::parse("layers.3.mlp.experts.17.up_proj.weight");
        assert_eq!(n.template, "layers.{l}.mlp.experts.{e}.up_proj.weight");
        assert_eq!((n.layer, n.expert), (Some(3), Some(17)));
    }

    #[test]
    fn odd_numbers_stay_text() {
        for name in ["blk.03.attn_q.weight", "blk.+3.attn_q.weight", "blk..x", "blk.99999999999.w"] {
            let n = TensorName::parse(name);
            assert_eq!((n.template.as_str(), n.layer), (name, None));
        }
        assert_eq!(TensorName::parse("a.1.b.2.c.3").template, "a.{l}.b.{e}.c.3");
    }
}
