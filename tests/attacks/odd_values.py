"""What is put into requests to see what becomes of it."""

from ..support.server_process import MODEL

LONG = "x" * 3000
DIGITS, LONG_DIGITS = "9" * 400, "9" * 5000
HEX = "0123456789abcdef" * 4
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW", "get",
)  # fmt: skip
NUMBERS = (
    "0", "-1", "1", "0.1", "1.5", DIGITS, "-" + DIGITS, "0." + DIGITS, LONG_DIGITS, "1e999", "-1e999", "1e-999",
    "NaN", "Infinity", "-Infinity", "0x10", "1_000", "\u0663", "1e", "+1", "--1", " 1", "9223372036854775808",
)  # fmt: skip
# Values of a path's parameter, as they are sent.
SEGMENTS = (
    MODEL,
    HEX, "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF",
    "123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", HEX + "0", "resp_" + HEX,
    "resp_123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "stats", "7", "..", ".", "%2e%2e",
    "%2e%2e%2f%2e%2e%2fapp.py", "..%2f..%2fapp.py", "%2f", "%5c..%5c", "a%2fb", "%00", HEX + "%00",
    "%0d%0aset-cookie:%20a", "%0a", "%7f", "%ff", "%c0%ae", "%c0%ae%c0%ae%2f", "%ed%a0%80", "%f0%9f%98%80",
    "%e2%80%ae", "%", "%zz", "%2", "%25", "%u0041", ";a=b", "a;b", "*", "~", "+", "%20", "\xe9", LONG, "%41" * 300,
    DIGITS, LONG_DIGITS, "-1", "1e999", "NaN", "999999999", "1000000000", "0", "00", "0x1", "{context_id}", "[", "]",
    "|", "^", '"', "<", "`",
)  # fmt: skip
QUERIES = (
    "a", "a=", "=a", "&&&", "?", "%", "a=%", "a=%zz", "a=%00", "a=%ff", "a=%ed%a0%80", "\xe9=\xe9", "a=1&a=2", "[]",
    "a[b]=c", LONG, "limit=1;order=asc", "%6cimit=1", "limit[]=1", "LIMIT=1",
    "&".join(f"a{i}={i}" for i in range(1500)),
)  # fmt: skip
HEADERS: dict[str, tuple[str, ...]] = {
    "host": (
        "", "[", "[::1", "[::1]", "[::1]:x", "localhost:99999", "localhost:" + DIGITS, "a b", "evil.example", "\xff",
        "::", "@", "a@localhost", "localhost, localhost", "%00", LONG,
    ),
    "origin": (
        "", "null", "http://[", "http://[::1", "http://localhost", "http://a:b", "http://a:99999999", "://", "\xff",
        "http://[v1.a]", "http://a\t", LONG, "http://\xe9", "http://localhost@a", "//",
    ),
    "authorization": (
        "", "Bearer", "Bearer ", "bearer x", "Basic YTpi", "Bearer \xff", "Bearer " + LONG, "Bearer a b", "\xff",
        "Bearer\tx",
    ),
    "accept": ("", "*/*", "text/html", "x", "\xff", "a/b;q=" + DIGITS, "application/json;q=NaN"),
    "accept-encoding": ("gzip", "br;q=1e999", "\xff"),
    "content-type": (
        "", "application/json", "application/JSON; charset=utf-16", "application/json; charset=x", "text/plain",
        "application/problem+json", "+json", "application/", "multipart/form-data", "multipart/form-data; boundary=",
        "multipart/form-data; boundary=edge; charset=idna", "multipart/form-data; boundary=edge; charset=utf-7",
        "multipart/form-data; boundary=edge; charset=unicode_escape",
        "multipart/form-data; boundary=edge; charset=hex", "multipart/form-data; boundary=edge; charset=undefined",
        "multipart/form-data; boundary=\xff", 'multipart/form-data; boundary="',
        "multipart/form-data; boundary=" + LONG, "application/x-www-form-urlencoded", "\xff", LONG, ";",
        "application/json;" * 200,
    ),
    "content-encoding": ("gzip", "identity", "br", "\xff", "gzip, gzip"),
    "content-length": (
        "", "-1", "+1", "1e3", DIGITS, LONG_DIGITS, "0x1", "1, 1", " ", "\xff", "9223372036854775808",
    ),
    "cookie": ("a=b", "=", ";;;", "\xff", "a=" + LONG, 'a="'),
    "range": (
        "bytes=0-0", "bytes=", "bytes=9-1", "bytes=" + DIGITS + "-", "bytes=-" + DIGITS, "bytes=0-0," * 200, "x",
        "bytes=\xb2-", "bytes=0-" + LONG_DIGITS, "bytes=99999999-",
    ),
    "if-none-match": ("*", '"', "\xff", 'W/"a", "b"'),
    "if-modified-since": ("x", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Jan " + DIGITS + " 00:00:00 GMT", "\xff"),
    "if-range": ("x", '"'),
    "x-request-id": ("\xff", LONG, "a b", ""),
    "sec-fetch-site": ("cross-site", "same-origin", "none", "\xff", ""),
    "access-control-request-method": ("GET", "\xff", ""),
    "access-control-request-headers": (LONG, "\xff", "*"),
    "x-forwarded-for": ("[", "a, b", "\xff", "1.2.3.4"),
    "x-forwarded-proto": ("[", "https", "\xff"),
    "forwarded": ("for=[", "\xff"),
    "connection": ("close", "keep-alive", "upgrade", "x"),
    "upgrade": ("h2c", "websocket", "\xff"),
    "http2-settings": ("x",),
    "transfer-encoding": ("chunked", "gzip", "gzip, chunked", "identity", "\xff"),
    "expect": ("100-continue", "x"),
    "te": ("trailers",),
    "max-forwards": ("0",),
    "x-http-method-override": ("DELETE",),
    "x\xff": ("a",),
    "x y": ("a",),
    "x\x01": ("a",),
    "": ("a",),
    "x-control": ("a\x01b", "a\x7fb", "a\tb", "a\x00b", "a\x0bb", "a\rb"),
}  # fmt: skip
# Of JSON, as they are written there.
LEAVES = (
    f'"{MODEL}"',
    '"x"', '""', "true", "null", "[]", "{}", "[0]", '{"a":0}', '"\\ud800"', '"\\u0000"', '"\xff"', '"<image>"',
    '"\\udfff\\ud800"', '"\U0001f600"', '"' + LONG + '"', '"' + "[," * 900 + '"', "[" * 90 + "]" * 90, "[" * 2000,
    "[" * 3000 + "]" * 3000,
    '{"a":' * 95 + "0" + "}" * 95,
    '{"a":' * 2000, '{"a":0,"a":1}', "[0,]", "{,}", "'x'", "undefined", "[" + "0," * 3000 + "0]",
    '"lookonce:' + HEX + '"', '"lookonce:"', '"lookonce:\\ud800"', '"data:image/png;base64,"', '"data:,x"',
    '"data:image/png;base64,eA=="', '"data:image/png;base64,\\ud800"', '"http://["', '"http://[::1"',
    '"https://a.example/\\u0000"', '"file:///etc/passwd"', '"resp_' + HEX + '"', '"user"', '"assistant"', '"text"',
    '"image_url"', '"input_text"', '"json_schema"', '"auto"', '"none"',
    *NUMBERS[:18],
)  # fmt: skip
# Of forms.
FORM_NAMES = ("", "\xe9", "a\xff", 'a"b', LONG, "\ud800", "ttl", "retention", "stream", "describe_prompt")
FILE_NAMES = (b"", b'; filename="a.png"', b'; filename=""', b"; filename", b"; filename*=x''%ff", b'; filename="\xff"')
FORM_HEADS = (b"content-disposition: form-data; ", b"content-disposition: ", b"", b"x\xff: ", b"\x00", b"a: b\r\n" * 20)
FORM_CONTENTS = (
    b"",
    b"x" * 70_000,
    b"\xff" * 9,
    b"--edge",
    b"\r\n--edg",
    b"true",
    b"\xd9\xa3",
    b"\\ud800",
    b"xn--\xff",
)
FORM_ENDS = (b"--edge--\r\n", b"--edge--\r\n", b"--edge--\r\n", b"", b"--edge", b"--edge--x", b"--edge\r\n--edge--")
CHARSETS = ("utf-16", "idna", "punycode", "utf-7", "unicode_escape", "raw_unicode_escape", "hex", "undefined", "x")
