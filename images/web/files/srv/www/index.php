<?php
// The recipe's own page: a site puts its files in its place. It counts itself in a row of the database, which knows this
// user by its socket and needs no password.
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
header('Cache-Control: no-store');
$db = new mysqli('localhost', 'php', '', 'site', 0, '/run/mysqld/mysqld.sock');
$db->query("INSERT INTO visits (page, count) VALUES ('/', 1) ON DUPLICATE KEY UPDATE count = count + 1");
$row = $db->query("SELECT count, since FROM visits WHERE page = '/'")->fetch_assoc();
$name = htmlspecialchars(gethostname());
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title><?= $name ?></title>
<style>body { font: 1.2rem system-ui, sans-serif; max-width: 30rem; margin: 4rem auto; padding: 0 1rem }</style>
<h1><?= $name ?></h1>
<p>This page was read <strong><?= (int) $row['count'] ?></strong> times since <?= htmlspecialchars($row['since']) ?>.
PHP <?= PHP_VERSION ?> says so, from a row of MariaDB <?= htmlspecialchars($db->server_info) ?>.</p>
</html>
