"""Runs the cases of the Autobahn test suite against the server at a URL. Prints how many there were, or how each
ended."""
import asyncio
import sys

import kosoku


# The suite takes both for good. Which of the two a server gets is a race within it: whether it has sent back a good
# message before it reads the broken frame behind it.
GOOD = ("OK", "NON-STRICT")


def verdict(behavior):
    return "good" if behavior.value in GOOD else behavior.value


async def main(url):
    # Those left out measure speed with large messages, and take minutes.
    try:
        results = await kosoku.run_fuzzingclient(url, exclude_cases=["9.*", "12.*", "13.*"], concurrency=4)
        print(len(results), "passed")
    except kosoku.FailureError as error:
        for result in sorted(error.results, key=lambda result: result.case_index):
            print(result.case_id, verdict(result.behavior), verdict(result.behavior_close))


asyncio.run(main(sys.argv[1]))
