//! What the text of a type shows.

use syn::{GenericArgument, Ident, PathArguments, Type, TypeReference};

/// The last name of a path, such as `Params` of `node_sdk::Params<u64>`.
pub(crate) fn last_name(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}

/// The types between the angle brackets of a path.
fn generics(ty: &Type) -> Vec<&Type> {
    let Type::Path(path) = ty else { return Vec::new() };
    let Some(PathArguments::AngleBracketed(generics)) = path.path.segments.last().map(|last| &last.arguments) else {
        return Vec::new();
    };
    let types = generics.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// The types between the angle brackets of a type of this name; none if it has another name.
pub(crate) fn generics_of<'a>(ty: &'a Type, name: &str) -> Vec<&'a Type> {
    if last_name(ty).is_some_and(|last| last == name) { generics(ty) } else { Vec::new() }
}

/// The types of which a type is made, as far as their text is there.
fn parts(ty: &Type) -> Vec<&Type> {
    match ty {
        Type::Path(_) => generics(ty),
        Type::Tuple(tuple) => tuple.elems.iter().collect(),
        Type::Array(array) => vec![&array.elem],
        Type::Slice(slice) => vec![&slice.elem],
        Type::Paren(paren) => vec![&paren.elem],
        Type::Group(group) => vec![&group.elem],
        _ => Vec::new(),
    }
}

/// A reference in a type that does not live as long as the program.
pub(crate) fn borrowed_part(ty: &Type) -> Option<&TypeReference> {
    match ty {
        Type::Reference(reference) if reference.lifetime.as_ref().is_none_or(|name| name.ident != "static") => {
            Some(reference)
        }
        _ => parts(ty).into_iter().find_map(borrowed_part),
    }
}

/// Whether a type has an `impl Trait`.
pub(crate) fn has_impl_trait(ty: &Type) -> bool {
    matches!(ty, Type::ImplTrait(_)) || parts(ty).into_iter().any(has_impl_trait)
}
