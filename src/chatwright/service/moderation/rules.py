"""Rules for what is asked of an assistant and may not be answered, in English and Chinese.

A rule wants what somebody asks for, or means to do, and to what: words alone are no harm. They are few and sure; what
is between the lines is the classifier's. Gaps are short, so that a text of any length is searched in its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VERSION = "1"


@dataclass(frozen=True)
class Rule:
    """A kind of harm, and how it is asked for; unless the same few words also say `but`.

    needs: what the pattern cannot do without, of many rules the same: where it is missing, none of them is looked for.
    """

    category: str
    pattern: re.Pattern[str]
    but: re.Pattern[str] | None = None
    needs: re.Pattern[str] | None = None


def _rule(category: str, pattern: str, but: str = "", needs: str = "") -> Rule:
    compiled = [re.compile(part) if part else None for part in (but, needs)]
    return Rule(category, re.compile(pattern), *compiled)


def _asked(category: str, pattern: str, but: str = "") -> Rule:
    """What somebody asks for. Without a way to ask there is none of these."""
    return _rule(category, _ASK + pattern, but, _ASKING)


def _chinese(category: str, pattern: str, but: str = "") -> Rule:
    return _rule(category, pattern, but, _HAN)


_HAN = "[\u3400-\u9fff]"
_ASKING = (
    r"(?:how (?:do|can|could|should|would|to|might)|help me|teach me|show me|tell me|explain|give me|i (?:want|need|plan|"
    r"intend|would like|am going|have decided)|i'd like|i'm (?:going|planning)|ways? (?:to|of)|steps? to|instructions?|"
    r"guide|recipe|let's|can you|could you|please|write|what is the best)\b"
)
_ASK = _ASKING + r".{0,40}?"
_MAKE = (
    r"(?:mak(?:e|ing)|build(?:ing)?|construct|assembl|creat|produc|synthesi[sz]|cook(?:ing)?|brew|prepar)\w*\b.{0,25}?"
)
_PERSON = (
    r"(?:husband|wife|boss|neighbou?r|sister|brother|mother|father|mom|dad|parents?|friend|girlfriend|boyfriend|ex|"
    r"teacher|classmate|colleague|co-?worker|girl|boy|child|children|kids?|man|men|woman|women|person|people|someone|"
    r"somebody|anyone|him|her|them|everyone|politician|president|judge|prisoner|policeman|cop|roommate|baby)\b"
)
_PLACE = (
    r"(?:building|bridge|train|school|church|mosque|synagogue|temple|airport|plane|crowd|city|house|home|hospital|water "
    r"supply|power (?:plant|station|grid)|stadium|embassy|subway|station|mall|shop|ship|office|parliament)\b"
)
_GROUP = (
    r"(?:jews|muslims|christians|hindus|buddhists|blacks?|black people|whites|white people|asians|chinese|mexicans|arabs|"
    r"africans|immigrants|refugees|foreigners|gays|gay people|lesbians|trans people|women|disabled people|homeless people)"
)
_MOVIE = r"(?:photo|portrait|camera|film|movie|novel|game|chess|story|character|scene|in low light|minecraft)"

_ASK_ZH = r"(?:怎么|怎样|如何|教我|帮我|告诉我|我想|我要|我打算|我准备|给我|请写|方法|步骤|教程).{0,12}?"
_PERSON_ZH = (
    r"(?:人|老公|丈夫|妻子|老婆|老板|邻居|同学|老师|孩子|他|她|父母|爸|妈|朋友|女友|男友|同事|室友|法官|总统|儿童|婴儿)"
)
_PLACE_ZH = r"(?:学校|医院|桥|火车|列车|教堂|清真寺|寺庙|大楼|楼房|房子|地铁|政府|机场|飞机|商场|电厂|水库|车站|人群)"
_GROUP_ZH = r"(?:黑人|白人|犹太人|穆斯林|回民|外国人|移民|难民|同性恋|女人|女性|残疾人|外地人|农民工)"
_SAFE_ZH = r"(?:预防|防止|避免|阻止|劝|治疗|救|识别|举报|打击|抵制|历史|法律|新闻|统计)"

RULES = (
    _rule(
        "illicit/violent",
        _MAKE
        + r"(?<!bath )(?<!seed )(?<!yarn )(?<!glitter )(?<!sugar )"
        + r"(?:bombs?|explosives?|grenades?|molotov\w*|nerve (?:gas|agent)|poison(?:ous)? gas|mustard gas|sarin|ricin|"
        r"anthrax|bio-?weapons?|(?:chemical|biological) weapons?|(?:deadly|lethal) poison|land ?mines?|ghost gun|bullets|silencer|rocket to attack)\b",
        r"bath bomb|calorimeter|minecraft|defus|dispos|disarm",
    ),
    _asked(
        "illicit/violent",
        r"(?:blow(?:ing)? up|bomb(?:ing)?|burn(?:ing)? down|set(?:ting)? fire to|attack(?:ing)?|derail|crash|shoot up|"
        r"poison|sabotage|sink)\b.{0,15}?" + _PLACE,
        _MOVIE + r"|proof|fire drill|insur",
    ),
    _rule("illicit/violent", r"set(?:ting)? (?:a |the |my )?" + _PLACE + r" on fire"),
    _asked(
        "illicit/violent",
        r"(?:(?:plan|commit|carry out) (?:a |an )?(?:terror\w* attack|terrorism|mass shooting|murder|massacre)|"
        r"join (?:a )?terror|hire a (?:killer|hit ?man)|buy a gun without|sell weapons to|take hostages)",
        r"victims of|prevent|" + _MOVIE,
    ),
    _asked(
        "violence",
        r"(?:kill|murder|assassinat|poison|stab|strangl|suffocat|shoot|hurt|tortur|kidnap|maim|beat up|harm)\w*\b"
        r".{0,12}?\b" + _PERSON,
        _MOVIE + r"|proof|without hurting|feelings|self-defen[cs]e|stop .{0,20}(?:hurt|kill|harm)",
    ),
    _asked(
        "violence",
        r"(?:kill|poison|hurt|tortur|starv|abus)\w*\b.{0,10}?\b(?:cats?|dogs?|animals?|pupp(?:y|ies)|kittens?)\b",
        r"animal abuse law|proof|prevent|rescu|report",
    ),
    _rule(
        "self-harm/instructions",
        _ASK + r"(?:kill|hurt|harm|hang|cut|injure)(?:ing)? (?:myself|yourself|oneself)\b|(?:painless|easiest|quickest|best) .{0,15}?"
        r"(?:suicide|way to (?:die|end (?:my|your) life))|suicide methods?",
        r"how (?:do|can) i (?:stop|avoid|keep)|hair|prevent",
    ),
    _rule(
        "self-harm/intent",
        r"\bi(?:'m| am| want| need| will|'ll| plan| have decided)\b.{0,25}?(?:kill(?:ing)? myself|end(?:ing)? (?:my life|it all)|"
        r"commit(?:ting)? suicide|hurt(?:ing)? myself|cut(?:ting)? myself|suicidal)|\bi (?:want|wish) to die\b",
        r"not (?:want to )?(?:kill|hurt)",
    ),
    _rule(
        "sexual/minors",
        r"(?:sex|sexual|sexy|nudes?|naked|porn\w*|erotic\w*|smut)\b.{0,25}?(?:\bchild(?:ren)?\b|\bminors?\b|underage|pre-?teen|"
        r"school ?girl|little (?:girl|boy)|\b(?:1[0-7]|[4-9])[- ]years?[- ]old)",
        r"education|abuse|prevent|health|traffick|\blaws?\b|therap|protect|report|crime",
    ),
    _rule(
        "sexual/minors",
        r"(?:\bchild(?:ren)?\b|\bminors?\b|underage|pre-?teen|school ?girl|little (?:girl|boy)|\b(?:1[0-7]|[4-9])[- ]years?[- ]old)"
        r".{0,25}?(?:\bsex\b|nudes?\b|naked|porn\w*|erotic\w*|smut\b)|trick a child into",
        r"education|abuse|prevent|health|traffick|\blaws?\b|therap|protect|report|crime",
    ),
    _asked(
        "illicit",
        r"(?:hack(?:ing)?|break(?:ing)?) into\b.{0,20}?(?:account|bank|e?-?mail|phone|computer|hospital|network|server|"
        r"shop|house|car)\b",
        r"\bown\b|permission|prevent|protect",
    ),
    _rule(
        "illicit",
        r"(?:write|make|create|build|code|develop)\b.{0,15}?(?:ransomware|malware|computer virus|key ?logger|phishing|botnet|"
        r"counterfeit|fake (?:money|passport|id|medic\w+))",
        r"detect|protect|remov|prevent|against",
    ),
    _asked("illicit", _MAKE + r"(?:meth(?:amphetamine)?|heroin|cocaine|fentanyl|lsd|ecstasy|crack cocaine)\b"),
    _asked(
        "illicit",
        r"(?:steal(?:ing)?|rob(?:bing)?|forg(?:e|ing)|launder(?:ing)?|blackmail(?:ing)?|brib(?:e|ing)|shoplift|"
        r"smuggl(?:e|ing)|counterfeit|sell (?:illegal drugs|stolen|drugs)|buy (?:stolen|illegal drugs)|evade taxes|"
        r"hide a body|destroy evidence)\b",
        r"\bbase|the show|steal a look|protect|prevent|avoid|stop|" + _MOVIE,
    ),
    _asked(
        "illicit",
        r"hack(?:ing)? (?!into)(?:my|his|her|their|someone|somebody|a|the)\b.{0,20}?(?:account|e?-?mail|phone|computer|server|website)\b",
        r"\bown\b|permission|prevent|protect",
    ),
    _asked(
        "harassment",
        r"(?:stalk|threaten|bully(?:ing)?|harass|spy on)\w*\b.{0,8}?\b" + _PERSON,
        r"being|prevent|stop|report|against|deal with|" + _MOVIE,
    ),
    _rule(
        "hate/threatening",
        r"(?:all|every|these|those|the)? ?" + _GROUP + r"\b.{0,12}?(?:should|must|need to|deserve to|have to|ought to) "
        r"(?:all )?(?:die|be (?:killed|exterminated|shot|gassed|hanged|eliminated|wiped out))",
    ),
    _asked("hate", r"(?:hate speech|people hate|make someone hate)", r"against hate|report|detect|what is|stop|combat"),
    _rule(
        "harassment/threatening",
        r"\bi(?:'ll| will| am going to|'m going to) (?:kill|stab|shoot|strangle|murder|hurt) you\b|send(?:ing)? death threats",
    ),
    _chinese("illicit/violent", r"(?:制作|制造|造|做|合成|配制|自制|组装).{0,8}?(?:炸弹|炸药|爆炸物|毒气|沙林|蓖麻毒素|毒药|燃烧瓶|枪支|手枪|子弹|雷管)", _SAFE_ZH),
    _chinese("illicit/violent", r"(?:炸掉|炸毁|烧毁|烧掉|袭击|放火烧|纵火).{0,6}?" + _PLACE_ZH, _SAFE_ZH),
    _chinese("violence", _ASK_ZH + r"(?:杀死|杀掉|杀了|谋杀|毒死|捅死|绑架|勒死|毒害|打死|折磨|虐待).{0,6}?" + _PERSON_ZH, _SAFE_ZH + "|小说|电影|游戏"),
    _chinese("violence", _ASK_ZH + r"(?:杀死|毒死|虐待|折磨).{0,6}?(?:猫|狗|动物)", _SAFE_ZH),
    _chinese("self-harm/instructions", r"(?:怎么|怎样|如何|教我).{0,8}?(?:自杀|自残|上吊|割腕|轻生)|自杀.{0,4}?(?:方法|方式)|无痛.{0,4}?死", _SAFE_ZH),
    _chinese("self-harm/intent", r"我.{0,6}?(?:想自杀|要自杀|想死|不想活|想结束.{0,4}生命|想轻生|想割腕|想跳楼|想自残)"),
    _chinese("sexual/minors", r"(?:儿童|未成年|幼女|小女孩|小男孩|小学生).{0,8}?(?:色情|裸照|裸体|性爱|做爱)", _SAFE_ZH + "|教育|保护"),
    _chinese("illicit", _ASK_ZH + r"(?:黑进|黑入|入侵|盗取|盗用|盗).{0,8}?(?:账号|账户|邮箱|银行|电脑|手机|网站|密码|系统|微信)", _SAFE_ZH),
    _chinese("illicit", _ASK_ZH + r"(?:制|做|合成|提炼).{0,4}?(?:冰毒|海洛因|毒品|摇头丸|可卡因)", _SAFE_ZH),
    _chinese("illicit", _ASK_ZH + r"(?:洗钱|伪造|敲诈|勒索|行贿|抢劫|偷东西|偷车|偷钱|诈骗|走私|逃税|买枪|毁尸)", _SAFE_ZH + "|被|遭|遇到"),
    _chinese("hate/threatening", _GROUP_ZH + r".{0,4}?(?:都该死|都去死|应该.{0,4}?(?:杀|消灭|灭绝|处死))"),
    _chinese("harassment/threatening", r"我(?:要|会|一定)(?:杀了你|弄死你|打死你|捅死你)"),
)  # fmt: skip


def broken(plain: str) -> tuple[str, ...]:
    """The kinds of harm that a text, in normal form, asks for; each once."""
    found: list[str] = []
    there: dict[re.Pattern[str], bool] = {}
    for rule in RULES:
        if rule.category in found:
            continue
        if rule.needs is not None:
            if rule.needs not in there:
                there[rule.needs] = rule.needs.search(plain) is not None
            if not there[rule.needs]:
                continue
        for match in rule.pattern.finditer(plain):
            around = plain[max(0, match.start() - 24) : match.end() + 24]
            if rule.but is None or not rule.but.search(around):
                found.append(rule.category)
                break
    return tuple(found)
