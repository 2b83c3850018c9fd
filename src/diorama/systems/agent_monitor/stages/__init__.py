"""The stages of the monitor, cheapest first; each is made by a function and is one async function of a step."""
