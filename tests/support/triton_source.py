"""A Triton kernel to compile without a launch."""

from __future__ import annotations

from triton.compiler import ASTSource


def source(kernel, pointers: dict[str, str | tuple[str, ...]], constants: dict[str, object]) -> ASTSource:
    """A kernel with these pointer types, 16-byte aligned, for numbers n of elements and of rows that 16 divides (Triton
    specializes on both at the launch). Pointers that are not named are absent; one argument may be a tuple of them.
    """
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if isinstance(pointers.get(name), tuple):
            signature[name] = pointers[name]
            attributes |= {(i, k): [["tt.divisibility", 16]] for k in range(len(pointers[name]))}
        elif name in pointers:
            signature[name] = pointers[name]
            if pointers[name][0] == "*" and not kernel.params[i].do_not_specialize_on_alignment:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif name in constants or name.endswith("_pointer"):
            signature[name], values[(i,)] = "constexpr", constants.get(name)
        else:
            signature[name] = kernel.params[i].annotation_type or "i64"
            if name in ("n", "rows"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constexprs=values, attrs=attributes)
