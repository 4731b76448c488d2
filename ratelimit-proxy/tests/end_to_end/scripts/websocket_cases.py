"""Runs the cases of the Autobahn test suite against the server at a URL. Prints how many there were, or which failed
and how."""
import asyncio
import sys

import kosoku


async def main(url):
    # Those left out measure speed with large messages, and take minutes.
    try:
        results = await kosoku.run_fuzzingclient(url, exclude_cases=["9.*", "12.*", "13.*"], concurrency=4)
        print(len(results), "passed")
    except kosoku.FailureError as error:
        for result in sorted(error.results, key=lambda result: result.case_index):
            print(result.case_id, result.behavior.value, result.behavior_close.value)


asyncio.run(main(sys.argv[1]))
