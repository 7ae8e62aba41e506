"""The demo's people: hands drawn from parameters, with sessions, cameras and backgrounds."""
