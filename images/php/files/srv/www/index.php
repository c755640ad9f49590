<?php
// The recipe's own page: a site puts its files in its place.
header('Content-Type: text/plain; charset=utf-8');
echo gethostname(), ": PHP ", PHP_VERSION, "\n";
