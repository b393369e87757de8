//! Typed access to the attributes of a node. It remembers which ones were asked for: what no builder asks for is
//! unknown, and unknown attributes are refused rather than ignored.

use super::proto::{AttributeProto, AttributeType, GraphProto};
use super::tensors;
use crate::infer::op::OpError;
use crate::infer::tensor::Tensor;
use std::cell::Cell;

/// The attributes of one node.
#[derive(Debug)]
pub struct Attributes<'a> {
    list: &'a [AttributeProto],
    read: Vec<Cell<bool>>,
}

impl<'a> Attributes<'a> {
    pub fn new(list: &'a [AttributeProto]) -> Attributes<'a> {
        Attributes { list, read: vec![Cell::new(false); list.len()] }
    }

    fn find(&self, name: &str, expected: AttributeType) -> Result<Option<&'a AttributeProto>, OpError> {
        let Some(i) = self.list.iter().position(|a| a.name == name) else { return Ok(None) };
        self.read[i].set(true);
        let found = &self.list[i];
        // Files before IR version 2 do not say the type.
        if found.r#type == expected as i32 || found.r#type == AttributeType::Undefined as i32 {
            return Ok(Some(found));
        }
        let kind = AttributeType::try_from(found.r#type).map_or("unknown".to_string(), |t| format!("{t:?}"));
        Err(OpError::Invalid(format!("attribute '{name}' has type {kind}, the standard says {expected:?}")))
    }

    /// An integer attribute.
    ///
    /// # Errors
    /// It is there with another type; so for all the accessors below.
    pub fn int(&self, name: &str) -> Result<Option<i64>, OpError> {
        Ok(self.find(name, AttributeType::Int)?.map(|a| a.i))
    }

    /// An integer attribute that means true or false.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, OpError> {
        Ok(self.int(name)?.map_or(default, |i| i != 0))
    }

    pub fn float(&self, name: &str) -> Result<Option<f32>, OpError> {
        Ok(self.find(name, AttributeType::Float)?.map(|a| a.f))
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>, OpError> {
        let Some(found) = self.find(name, AttributeType::String)? else { return Ok(None) };
        let text = std::str::from_utf8(&found.s);
        text.map(Some).map_err(|_| OpError::Invalid(format!("attribute '{name}' is not valid UTF-8")))
    }

    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, OpError> {
        Ok(self.find(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    pub fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, OpError> {
        Ok(self.find(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, OpError> {
        let Some(found) = self.find(name, AttributeType::Tensor)? else { return Ok(None) };
        let proto = found.t.as_ref().ok_or_else(|| OpError::Invalid(format!("attribute '{name}' is empty")))?;
        tensors::decode_inline(proto).map(Some).map_err(|e| OpError::Invalid(format!("attribute '{name}': {e}")))
    }

    /// The graph of a control-flow operator.
    pub fn graph(&self, name: &str) -> Result<&'a GraphProto, OpError> {
        let found = self.find(name, AttributeType::Graph)?.and_then(|a| a.g.as_ref());
        found.ok_or_else(|| OpError::Invalid(format!("attribute '{name}' is missing")))
    }

    /// Marks attributes that the standard says have no effect on inference.
    pub fn without_effect(&self, names: &[&str]) {
        for (attribute, read) in self.list.iter().zip(&self.read) {
            if names.contains(&attribute.name.as_str()) {
                read.set(true);
            }
        }
    }

    /// Names of the attributes that nobody asked for.
    pub fn unread(&self) -> Vec<&'a str> {
        self.list.iter().zip(&self.read).filter(|(_, read)| !read.get()).map(|(a, _)| a.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_stays_unread() {
        let list =
            [AttributeProto::int("axis", -1), AttributeProto::ints("pads", &[1, 2]), AttributeProto::int("seed", 3)];
        let attributes = Attributes::new(&list);
        assert_eq!(attributes.int("axis"), Ok(Some(-1)));
        assert_eq!(attributes.int("absent"), Ok(None));
        attributes.without_effect(&["seed"]);
        assert_eq!(attributes.unread(), ["pads"]);
        assert!(attributes.float("pads").is_err(), "wrong type");
        assert_eq!(attributes.ints("pads"), Ok(Some(&[1, 2][..])));
        assert!(attributes.unread().is_empty());
    }
}
