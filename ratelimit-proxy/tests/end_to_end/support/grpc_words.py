"""gRPC as Python speaks it: `server` prints its port and serves; `client ADDRESS` calls and checks what comes back.

Messages are bytes, so nothing has to be generated."""

import sys
from concurrent import futures
from queue import Queue

import grpc


def echo(request, context):
    if request.startswith(b"fail"):
        context.set_trailing_metadata([("why", "asked-for")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()
    context.set_code(grpc.StatusCode.DATA_LOSS)
    context.set_details("and that is all")


def total(requests, context):
    return str(sum(int(request) for request in requests)).encode()


def talk(requests, context):
    yield from requests


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Denied": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Sum": grpc.stream_unary_rpc_method_handler(total),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
}


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Words", METHODS)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def equal(found, expected):
    if found != expected:
        print(f"{found!r} instead of {expected!r}")
        sys.exit(1)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    print("no error")
    sys.exit(1)


def call(address):
    with grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary("/test.Words/Echo")
        equal(echo(b"hello", timeout=20), b"hello")
        equal(echo(b"x" * 1_000_000, timeout=20), b"x" * 1_000_000)
        failed = failure(lambda: echo(b"fail", timeout=20))
        equal((failed.code(), failed.details()), (grpc.StatusCode.FAILED_PRECONDITION, "as you wish"))
        equal(dict(failed.trailing_metadata())["why"], "asked-for")

        counted = []
        failed = failure(lambda: counted.extend(channel.unary_stream("/test.Words/Count")(b"0", timeout=20)))
        equal(failed.code(), grpc.StatusCode.DATA_LOSS)
        words = channel.unary_stream("/test.Words/Count")(b"50", timeout=20)
        failed = failure(lambda: [counted.append(int(word)) for word in words])
        equal((counted, failed.details()), (list(range(50)), "and that is all"))

        numbers = (str(number).encode() for number in range(100))
        equal(channel.stream_unary("/test.Words/Sum")(numbers, timeout=20), b"4950")

        said = Queue()
        heard = channel.stream_stream("/test.Words/Talk")(iter(said.get, None), timeout=20)
        for number in range(20):
            # Said only after the answer to the last.
            said.put(str(number).encode())
            equal(next(heard), str(number).encode())
        said.put(None)
        equal(list(heard), [])
        equal(heard.code(), grpc.StatusCode.OK)

        denied = channel.unary_unary("/test.Words/Denied")
        equal(denied(b"once", timeout=20), b"once")
        failed = failure(lambda: denied(b"twice", timeout=20))
        equal(failed.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        equal("retry-after" in dict(failed.trailing_metadata()) or "retry-after" in dict(failed.initial_metadata()), True)
    print("all as expected")


if __name__ == "__main__":
    if sys.argv[1:] == ["server"]:
        serve()
    else:
        call(sys.argv[2])
