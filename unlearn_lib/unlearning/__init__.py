"""One call for every method: what is asked, how it is carried out, what it cost, and a look at the outcome."""
