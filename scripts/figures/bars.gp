# Grouped bars with whiskers: a data set a series, columns slot, label, median,
# low, high; the last data set has the slots' labels.
bar = 0.8 / series
place(slot, i) = slot + (i - (series - 1) / 2.0) * bar

set title title_text."\n".place_text
set ylabel ylabel_text
set xlabel note
set key outside top right
set grid ytics lc '#cccccc'
set style fill pattern 3 border lt -1
set xtics rotate by -40 nomirror
set xrange [-0.6 : slots - 0.4]
if (logarithmic) {
    set logscale y
    set yrange [10 ** floor(log10(low * 0.7)) : 10 ** ceil(log10(high * 1.05))]
    set format y '1e%T'
    if (low > 0.01 && high < 1e6) { set format y '%g' }
} else {
    set yrange [0 : *]
}
unset arrow
if (line_at_1) {
    set arrow from graph 0, first 1 to graph 1, first 1 nohead lw 2 dt 2 front
}

# The labels' points are white and under the bars.
plot data index series using 1:(low):xtic(2) with dots lc rgb '#ffffff' \
    notitle, \
    for [i = 0 : series - 1] data index i \
    using (place($1, i)):3:4:5:(bar * 0.92) \
    with boxerrorbars fill pattern patterns[i + 1] \
    lc rgb colours[1 + value(sprintf('colour_%d', i))] \
    title columnheader(1)
