//! `#[handler]`: reports why a function cannot be a handler, at the place of the mistake.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, ReturnType, Signature, Type};

use crate::types::{borrowed_part, generics_of, has_impl_trait, last_name};

/// Maximum number of arguments of a handler: as many as `Handler` is implemented for.
const MAX_ARGUMENTS: usize = 8;

/// What an argument takes of a call, where two arguments cannot take the same.
const TAKEN_ONCE: [(&str, &str); 4] = [
    ("RawBody", "the body"),
    ("BodyStream", "the body"),
    ("Items", "the parts that the caller sends"),
    ("Next", "the handler that the layer wraps"),
];

/// Forms of what the caller sends beside the arguments, of which a call has one.
const BODIES: [&str; 3] = ["RawBody", "BodyStream", "Items"];

/// The function, with checks of its types beside it. If it is wrong in itself, the errors and a
/// handler of that name, so that its other uses are no further errors.
pub(crate) fn expand(settings: TokenStream, function: &ItemFn) -> TokenStream {
    let signature = &function.sig;
    let mut mistakes = mistakes(signature);
    if !settings.is_empty() {
        mistakes.push(Error::new_spanned(settings, "`#[handler]` has no settings: they stand behind the route"));
    }
    let errors = mistakes.into_iter().reduce(|mut all, next| {
        all.combine(next);
        all
    });
    let Some(errors) = errors else {
        let checks = checks(signature);
        return quote!(#function #checks);
    };
    let (errors, visibility, name) = (errors.into_compile_error(), &function.vis, &signature.ident);
    quote! {
        #errors
        #[allow(missing_docs, clippy::unused_async)]
        #visibility async fn #name() -> ::core::result::Result<(), ::node_sdk::ServiceError> {
            ::core::unreachable!()
        }
    }
}

/// The mistakes that the text of the function shows.
fn mistakes(signature: &Signature) -> Vec<Error> {
    let mut mistakes = Vec::new();
    let mut report = |place: &dyn quote::ToTokens, text: &str| mistakes.push(Error::new_spanned(place, text));
    if signature.asyncness.is_none() {
        report(&signature.fn_token, &format!("a handler is async: write `async fn {}`", signature.ident));
    }
    if !signature.generics.params.is_empty() {
        report(&signature.generics, "a handler is not generic: a route calls one function. Name the types");
    }
    match &signature.output {
        ReturnType::Default => {
            let text = "a handler returns a `Result`: write `-> Result<(), ServiceError>` if it has no value";
            report(&signature.ident, text);
        }
        ReturnType::Type(..) => {}
    }
    let mut taken: Vec<&str> = Vec::new();
    for (index, argument) in signature.inputs.iter().enumerate() {
        let ty = match argument {
            FnArg::Receiver(receiver) => {
                let text = "a handler has no `self`: give the value to `NodeBuilder::state`, and take it as `State<T>`";
                report(receiver, text);
                continue;
            }
            FnArg::Typed(typed) => &*typed.ty,
        };
        if index == MAX_ARGUMENTS {
            report(ty, "a handler has up to eight arguments: put some of them into a type of yours that is `FromCall`");
        }
        if let Some(text) = mistake_of_argument(ty, signature) {
            report(ty, &text);
        }
        let once = TAKEN_ONCE.iter().find(|(name, _)| last_name(ty).is_some_and(|last| last == name));
        if let Some((name, what)) = once {
            if taken.contains(name) {
                report(ty, &format!("`{name}` takes {what}, and another argument has taken it"));
            } else if BODIES.contains(name) && BODIES.iter().any(|body| taken.contains(body)) {
                report(ty, "a call has a body (`RawBody` or `BodyStream`) or parts (`Items`): take one of them");
            }
            taken.push(name);
        }
    }
    mistakes
}

/// The mistake in the type of an argument, if its text shows one.
fn mistake_of_argument(ty: &Type, signature: &Signature) -> Option<String> {
    if has_impl_trait(ty) {
        return Some("a handler is not generic: name the type of the argument".to_owned());
    }
    if let Some(borrowed) = borrowed_part(ty) {
        let owned = match last_name(&borrowed.elem) {
            Some(name) if name == "str" => "`String`".to_owned(),
            Some(name) => format!("`{name}`"),
            None => "a type of its own".to_owned(),
        };
        return Some(format!(
            "an argument owns its value, because the call may end before the handler does: write {owned} here; values \
             that calls share are `State<T>`"
        ));
    }
    let is_next = last_name(ty).is_some_and(|name| name == "Next");
    let returns_outcome = match &signature.output {
        ReturnType::Type(_, ty) => generics_of(ty, "Result")
            .first()
            .is_some_and(|value| last_name(value).is_some_and(|name| name == "Outcome")),
        ReturnType::Default => false,
    };
    (is_next && !returns_outcome).then(|| {
        "`Next` is for a layer, which returns `Result<Outcome, ServiceError>`: a handler has no next".to_owned()
    })
}

/// Checks of the types, each of which the compiler reports at the place of its type.
fn checks(signature: &Signature) -> TokenStream {
    let name = &signature.ident;
    let types: Vec<&Type> = signature.inputs.iter().filter_map(type_of).collect();
    let arguments = types.iter().map(|ty| quote_spanned!(ty.span()=> ::node_sdk::private::check_argument::<#ty>();));
    let result = match &signature.output {
        ReturnType::Type(_, ty) => checks_of_result(ty),
        ReturnType::Default => TokenStream::new(),
    };
    let names: Vec<_> = (0..types.len()).map(|index| format_ident!("argument_{index}")).collect();
    let at_name: Span = name.span();
    let future = quote_spanned!(at_name=> ::node_sdk::private::check_future(#name(#(#names),*)););
    quote! {
        const _: () = {
            #[allow(dead_code, clippy::too_many_arguments)]
            fn check() {
                #(#arguments)*
                #result
            }
            #[allow(dead_code, clippy::too_many_arguments, clippy::large_types_passed_by_value)]
            fn check_future(#(#names: #types),*) {
                #future
            }
        };
    }
}

fn checks_of_result(ty: &Type) -> TokenStream {
    if has_impl_trait(ty) {
        // Such a type cannot be named a second time. The route checks it.
        return TokenStream::new();
    }
    match generics_of(ty, "Result")[..] {
        [value, error] => {
            let value = quote_spanned!(value.span()=> ::node_sdk::private::check_value::<#value>(););
            let error = quote_spanned!(error.span()=> ::node_sdk::private::check_error::<#error>(););
            quote!(#value #error)
        }
        _ => quote_spanned!(ty.span()=> ::node_sdk::private::check_result::<#ty>();),
    }
}

fn type_of(argument: &FnArg) -> Option<&Type> {
    match argument {
        FnArg::Typed(typed) => Some(&typed.ty),
        FnArg::Receiver(_) => None,
    }
}
