--- What stands on the page before a state has come.

return [==[
<header>
<h1>TokenBatcher</h1>
<label id=choice hidden>of <select id=batcher></select></label>
<span id=state class=pill>asking</span>
<span id=facts></span>
<span id=about class=soft></span>
<span id=line class="pill push" role=status>connecting</span>
</header>
<p id=note role=status></p>
<main>
<section aria-labelledby=h-now><h2 id=h-now>Now <small>rates over the last ten seconds</small></h2>
<dl id=tiles class=tiles></dl></section>
<section aria-labelledby=h-queue><h2 id=h-queue>Answers and queue
<small>two minutes, against limits</small></h2>
<div class=four>
<figure><figcaption id=cap-completed></figcaption><canvas id=c-completed role=img></canvas></figure>
<figure><figcaption id=cap-queue></figcaption><canvas id=c-queue role=img></canvas></figure>
<figure><figcaption id=cap-cost></figcaption><canvas id=c-cost role=img></canvas></figure>
<figure><figcaption id=cap-oldest></figcaption><canvas id=c-oldest role=img></canvas></figure>
</div></section>
<section aria-labelledby=h-batches>
<div class=bar><h2 id=h-batches>Batches as they happen <small id=left></small></h2>
<ul class=keys>REASONS<li><i class=padding></i>padding<li><i class=failed></i>failed</ul>
<span class="bar push"><label>show <select id=span><option value=10>10 s<option value=30 selected>30 s
<option value=120>2 min</select></label><button id=pause aria-pressed=false>Pause</button></span></div>
<p class=soft>Length: service time; height: records; faint: still running; dashed line: options were changed. Point at a
batch to read it; with the keyboard: arrows, Home, End, Escape.
</p>
<canvas id=c-batches role=application tabindex=0 aria-label="batches over time; arrow keys read them one by one">
</canvas>
<p id=read class=soft role=status></p>
<details id=as-table><summary>The last batches as a table</summary><div class=wide><table><thead><tr><th>batch
<th class=left>worker<th class=left>ended<th>took<th>records<th>tokens<th>padding<th class=left>went<th>calls<th>failed
<th class=left>policy</thead><tbody id=t-batches></tbody></table></div></details>
</section>
<section class=third aria-labelledby=h-latency><h2 id=h-latency>Latency <small id=over></small></h2>
<table><thead><tr><th>of a record<th>p50<th>p95<th>p99<th></thead><tbody id=t-latency></tbody></table></section>
<section class=third aria-labelledby=h-sizes><h2 id=h-sizes>Batch sizes <small>records</small></h2>
<table><thead><tr><th>up to<th>batches<th></thead><tbody id=t-sizes></tbody></table></section>
<section class=third aria-labelledby=h-costs><h2 id=h-costs>Batch costs <small>tokens</small></h2>
<table><thead><tr><th>up to<th>batches<th></thead><tbody id=t-costs></tbody></table></section>
<section class=third aria-labelledby=h-keys><h2 id=h-keys>Keys <small></small></h2><div class=wide>
<table><thead><tr><th>key<th>records<th>tokens<th>share</thead><tbody id=t-keys></tbody></table></div></section>
<section class=third aria-labelledby=h-groups><h2 id=h-groups>Groups <small></small></h2><div class=wide>
<table><thead><tr><th>group<th>records<th>tokens<th>share</thead><tbody id=t-groups></tbody></table></div></section>
<section class=third aria-labelledby=h-workers><h2 id=h-workers>Workers</h2><div class=wide>
<table><thead><tr><th>worker<th>process<th>batches<th>records each<th>busy<th>seen</thead>
<tbody id=t-workers></tbody></table>
</div></section>
<section class=half aria-labelledby=h-failures><h2 id=h-failures>Failures
<small>the last 20 batches with any</small></h2>
<div class=wide><table><thead><tr><th>at<th class=left>worker<th>batch<th>failed<th class=left>why</thead>
<tbody id=t-failures></tbody></table></div></section>
<section class=half aria-labelledby=h-options><h2 id=h-options>Policy and options</h2>
<p id=policy></p><h3>Changes</h3><div class=wide><table><tbody id=t-changes></tbody></table></div>
<details><summary>All options in force</summary><div class=wide><table><thead><tr><th>option<th class=left>value</thead>
<tbody id=t-options></tbody></table></div></details></section>
</main>
<div id=tip></div>
<noscript>What this page shows is drawn by a script, which is switched off here; stats.json beside it has the figures.
</noscript>
]==]
