//! The published schema.

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value,
};

use super::{decode, encode, message_of, sample, wrap};

fn schema() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = protox::compile(["headstart/profile/v1/profile.proto"], [root])
        .expect("the schema compiles");
    DescriptorPool::from_file_descriptor_set(files).expect("the schema links")
}

fn column(message: &DynamicMessage, path: &str) -> Vec<i64> {
    let (last, parents) = path.rsplit_once('.').map_or((path, ""), |(p, l)| (l, p));
    let mut at = message.clone();
    for field in parents.split('.').filter(|f| !f.is_empty()) {
        let value = at.get_field_by_name(field).expect(field).into_owned();
        at = value.as_message().expect(field).clone();
    }
    let value = at.get_field_by_name(last).expect(last);
    value
        .as_list()
        .expect(last)
        .iter()
        .map(|v| match v {
            Value::U32(n) => i64::from(*n),
            Value::U64(n) => *n as i64,
            Value::I64(n) => *n,
            Value::EnumNumber(n) => i64::from(*n),
            Value::Bool(b) => i64::from(*b),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Every field of the schema that `message` sets, and that none is unknown.
fn fields_set(message: &DynamicMessage, set: &mut BTreeSet<String>) {
    assert_eq!(
        message.unknown_fields().count(),
        0,
        "{:?}",
        message.descriptor()
    );
    for (field, value) in message.fields() {
        set.insert(field.full_name().to_owned());
        match value {
            Value::Message(inner) => fields_set(inner, set),
            Value::List(items) => {
                let inner = items.iter().filter_map(Value::as_message);
                inner.for_each(|m| fields_set(m, set));
            }
            _ => {}
        }
    }
}

#[test]
fn the_schema_describes_what_is_written() {
    let pool = schema();
    let descriptor = pool
        .get_message_by_name("headstart.profile.v1.Profile")
        .expect("Profile");
    let mut profile = sample();
    profile.files[0].changed = 2;
    profile.runs[1].blind_ns = 4;
    let bytes = message_of(&encode("web", &profile));
    let message = DynamicMessage::decode(descriptor, &bytes[..]).expect("readable by the schema");

    let mut set = BTreeSet::new();
    fields_set(&message, &mut set);
    let all: BTreeSet<String> = pool
        .all_messages()
        .flat_map(|m: MessageDescriptor| m.fields().collect::<Vec<_>>())
        .map(|f| f.full_name().to_owned())
        .collect();
    assert_eq!(set, all, "every field of the schema is written");

    for (path, values) in [
        ("histories.certain", vec![1, 2, 0, 0]),
        ("histories.seen", vec![3, 3, 2, 1]),
        ("files.volume", vec![1]),
        ("files.size", vec![40_000]),
        ("files.mtime_delta_ns", vec![-3]),
        ("files.extents", vec![2]),
        ("files.changed", vec![2]),
        ("files.extent.gap", vec![1, 2]),
        ("files.extent.pages", vec![3, 2]),
        ("files.extent.first_use_delta", vec![56, -35]),
        ("files.extent.history", vec![0, 1]),
        ("names.kind", vec![1]),
        ("names.listed", vec![1]),
        ("names.first_use_delta", vec![3]),
        ("names.history", vec![2]),
        ("blocks.extent.gap", vec![77]),
    ] {
        assert_eq!(column(&message, path), values, "{path}");
    }
    let path = message
        .get_field_by_name("files")
        .expect("files")
        .into_owned();
    let path = path
        .as_message()
        .expect("files")
        .get_field_by_name("path")
        .expect("path")
        .into_owned();
    assert_eq!(path, Value::Bytes(b"bin/a\n\0"[..].into()));
    assert_eq!(
        *message.get_field_by_name("time_step_ns").expect("step"),
        Value::U64(1_000)
    );

    // And back: what a protobuf library writes by the schema is read.
    assert_eq!(
        decode(&wrap(&message.encode_to_vec())).expect("valid").1,
        profile
    );

    let kinds = pool
        .get_enum_by_name("headstart.profile.v1.NameKind")
        .expect("NameKind");
    let kinds: Vec<_> = kinds
        .values()
        .map(|v| (v.name().to_owned(), v.number()))
        .collect();
    let expect = [
        ("FILE", 0),
        ("DIRECTORY", 1),
        ("SYMLINK", 2),
        ("MISSING", 3),
    ];
    assert_eq!(
        kinds,
        expect.map(|(name, number)| (name.to_owned(), number))
    );
    let columns = pool
        .get_message_by_name("headstart.profile.v1.ExtentColumns")
        .expect("columns");
    assert!(
        columns
            .fields()
            .all(|f| f.is_packed() && !matches!(f.kind(), Kind::Message(_)))
    );
}
